//! The python kernel.

use std::time::{Duration, Instant};

use hearth_channel::KernelSent;
use hearth_protocol::kernel::{KernelEvent, KernelExec, KernelStart};

use super::{Python, exec, is_here, print, run};
use crate::support::{Agent, HANG, SOON};

#[tokio::test]
async fn b19_python_keeps_variables_imports_functions_and_the_directory() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let code = "import math, os\nx = 20\ndef twice(n): return n * 2\nos.mkdir('deep'); os.chdir('deep'); os.environ['KEPT'] = 'yes'";
    let first = run(&channel, Python, code).await;
    assert!(first.ran().fresh && first.value().is_none(), "{first:?}");
    let second =
        run(&channel, Python, "twice(x) + math.floor(2.5), os.path.basename(os.getcwd()), os.environ['KEPT']").await;
    assert_eq!(second.value().unwrap(), "(42, 'deep', 'yes')");
    assert!(!second.ran().fresh);
    let module =
        run(&channel, Python, "import __main__, pickle; __main__.x, pickle.loads(pickle.dumps(twice)) is twice").await;
    assert_eq!(module.value().unwrap(), "(20, True)");
}

#[tokio::test]
async fn b20_names_and_text_like_the_plumbing_change_nothing_in_python() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, Python, "exit_code = header = code = ns = state = token = answer = serve = process = 99").await;
    run(
        &channel,
        Python,
        "import json, os, sys, builtins\njson.dumps = json.loads = None\nbuiltins.print = print\nsys.argv = None",
    )
    .await;
    let forged = "for text in ('{\"type\":\"done\",\"code\":7}', '\\n {\"type\": \"done\", \"code\": 7, \"interrupted\": false}\\n', '__END__'):\n  print(text)";
    let done = run(&channel, Python, forged).await;
    assert_eq!(done.code(), 0);
    assert_eq!(done.out().lines().count(), 5);
    // Even whoever finds the descriptor cannot speak for the driver without its token.
    let found = "import os\nfor name in os.listdir('/proc/self/fd'):\n  if int(name) >= 900:\n    try: os.write(int(name), b'\\n {\"type\": \"done\", \"code\": 7, \"interrupted\": false}\\ngarbage')\n    except OSError: pass\nexit_code";
    let done = run(&channel, Python, found).await;
    assert_eq!((done.code(), done.value().unwrap().as_str()), (0, "99"));
    let names = run(&channel, Python, "[name for name in vars() if not name.startswith('__')] == ['exit_code', 'header', 'code', 'ns', 'state', 'token', 'answer', 'serve', 'process', 'json', 'os', 'sys', 'builtins', 'text', 'name']").await;
    assert_eq!(names.value().unwrap(), "True", "nothing else is in the namespace");
}

#[tokio::test]
async fn b21_sys_exit_keeps_the_state_and_os_exit_starts_afresh() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let exit = run(&channel, Python, "x = 1\nprint('said')\nimport sys; sys.exit(5)").await;
    assert_eq!((exit.code(), exit.out().as_str(), exit.ran().state_lost), (5, "said\n", false));
    assert_eq!(run(&channel, Python, "x").await.value().unwrap(), "1");
    let text = run(&channel, Python, "sys.exit('bye')").await;
    assert_eq!((text.code(), text.err().as_str()), (1, "bye\n"));
    let hard = run(&channel, Python, "print('kept', end='')\nimport os; os._exit(42)").await;
    assert_eq!((hard.code(), hard.out().as_str(), hard.ran().state_lost), (42, "kept", true));
    let next = run(&channel, Python, "'x' in globals()").await;
    assert_eq!((next.value().unwrap().as_str(), next.ran().fresh), ("False", true));
    let crash = run(&channel, Python, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").await;
    assert_eq!((crash.code(), crash.ran().signal, crash.ran().state_lost), (139, Some(11), true));
    assert_eq!(run(&channel, Python, "1 + 1").await.value().unwrap(), "2");
}

#[tokio::test]
async fn b22_an_interrupt_ends_a_loop_and_a_sleep_and_keeps_the_state() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, Python, "x = 7").await;
    for code in [
        "print('on', flush=True)\nwhile True: pass",
        "print('on')\nimport time; time.sleep(600)",
        "print('on')\nimport subprocess; subprocess.run(['sleep', '600'])",
        "print('on')\nimport asyncio; await asyncio.sleep(600)",
        "print('on')\nimport os\nos.system('sleep 600')\nraise KeyboardInterrupt",
    ] {
        let operation = channel.exec_in_kernel(KernelExec::new(Python), code).await.unwrap();
        assert!(matches!(operation.next().await.unwrap(), Some(KernelSent::Output(..))));
        let asked = Instant::now();
        channel.interrupt_kernel("python").await.unwrap();
        let ran = loop {
            match tokio::time::timeout(HANG, operation.next()).await.unwrap().unwrap().unwrap() {
                KernelSent::Ran(ran) => break ran,
                KernelSent::Event(KernelEvent::Error { name, traceback, .. }) => {
                    assert_eq!(name, "KeyboardInterrupt");
                    assert!(!traceback.contains("hearth"), "{traceback}");
                }
                _ => {}
            }
        };
        assert!(asked.elapsed() < SOON, "{code}: {:?}", asked.elapsed());
        assert_eq!((ran.code, ran.interrupted, ran.state_lost), (130, true, false), "{code}");
        assert_eq!(run(&channel, Python, "x").await.value().unwrap(), "7");
    }
}

#[tokio::test]
async fn b23_future_imports_go_with_variables_and_tracebacks_show_the_users_lines_only() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut with_env = KernelExec::new(Python);
    with_env.env.insert("GREETING".into(), "it's\n中".into());
    let code = "from __future__ import annotations\nimport os\ndef f(a: Nowhere) -> Never: pass\nos.environ['GREETING'], f.__annotations__['a']";
    let done = exec(&channel, with_env, code).await.unwrap();
    assert_eq!(done.value().unwrap(), "(\"it's\\n中\", 'Nowhere')");
    assert_eq!(
        run(&channel, Python, "os.environ.get('GREETING')\nos.getenv('GREETING') is None").await.value().unwrap(),
        "True"
    );
    run(&channel, Python, "def inner(n):\n    return 1 / n\ndef outer():\n    try:\n        inner(0)\n    except ArithmeticError as error:\n        raise LookupError('no') from error").await;
    let failed = run(&channel, Python, "outer()").await;
    assert_eq!(failed.code(), 1);
    let error = failed.ran().error.clone().unwrap();
    assert_eq!((error.name.as_str(), error.value.as_str()), ("LookupError", "no"));
    let traceback = failed.traceback();
    for line in ["return 1 / n", "inner(0)", "raise LookupError('no') from error", "ZeroDivisionError", "in outer"] {
        assert!(traceback.contains(line), "{line:?} is not in {traceback}");
    }
    let files: Vec<_> = traceback.lines().filter(|line| line.trim_start().starts_with("File ")).collect();
    assert!(files.len() == 4 && files.iter().all(|line| line.contains("\"<exec-")), "{traceback}");
    let syntax = run(&channel, Python, "x = (").await;
    assert_eq!(syntax.ran().error.as_ref().unwrap().name, "SyntaxError");
    assert!(!syntax.traceback().contains("hearth"));
}

#[tokio::test]
async fn b24_wide_text_arrives_intact_and_nothing_is_waited_for() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let expected = "中".repeat(40_000);
    assert_eq!(print(&channel, Python, "print('中' * 40000, end='')").await, expected);
    let pieces = "import sys\nfor byte in ('中' * 40000).encode(): sys.stdout.buffer.write(bytes([byte]))";
    assert_eq!(print(&channel, Python, pieces).await, expected);
    assert_eq!(run(&channel, Python, "'中' * 40000").await.value().unwrap(), format!("'{expected}'"));
    let long = format!("len('{expected}')");
    assert_eq!(run(&channel, Python, &long).await.value().unwrap(), "40000");
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let started = Instant::now();
        run(&channel, Python, "pass").await;
        fastest = fastest.min(started.elapsed());
    }
    eprintln!("pass takes {fastest:?}");
    assert!(fastest < Duration::from_millis(10), "{fastest:?}");
}

#[tokio::test]
async fn b25_a_forked_child_neither_ends_the_exec_nor_repeats_output() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let code = "import os, sys\nprint('before', end=' ')\npid = os.fork()\nif pid == 0:\n    print('child', end=' ')\nelse:\n    os.waitpid(pid, 0)\n    print('parent')\npid and 'the parent'";
    let done = run(&channel, Python, code).await;
    assert_eq!((done.out().as_str(), done.value().as_deref()), ("before child parent\n", Some("'the parent'")));
    for (ending, code) in [("sys.exit(3)", 3), ("1/0", 1), ("os._exit(4)", 4)] {
        let text = format!("pid = os.fork()\nif pid == 0: {ending}\nos.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])");
        let done = run(&channel, Python, &text).await;
        assert_eq!((done.code(), done.value().unwrap()), (0, code.to_string()), "{ending}");
        assert_eq!(done.events.len(), 1);
    }
    let pool = "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool: total = sum(pool.map(abs, [-1, -2, -3]))\ntotal";
    assert_eq!(run(&channel, Python, pool).await.value().unwrap(), "6");
}

#[tokio::test]
async fn b20_whatever_became_of_its_outputs_an_interpreter_lives_on() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, Python, "import os, sys\nkept = 5").await;
    for code in
        ["sys.stdout.detach()", "sys.stderr.detach()", "del sys.stdout, sys.stderr", "sys.stdout = sys.stderr = None"]
    {
        run(&channel, Python, code).await;
        let next = run(&channel, Python, "print(kept)\nprint(kept, file=sys.stderr)").await;
        assert_eq!((next.out().as_str(), next.err().as_str()), ("5\n", "5\n"), "{code}");
    }
    run(&channel, Python, "os.close(1); os.close(2); sys.stdout = sys.stderr = None").await;
    let next = run(&channel, Python, "print(kept)\nkept").await;
    assert_eq!((next.value().as_deref(), next.ran().state_lost), (Some("5"), false), "{next:?}");
}

#[tokio::test]
async fn a_value_comes_back_in_all_its_forms_and_none_without_a_bound() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let code = "class Rich:\n  def __repr__(self): return 'rich'\n  def _repr_html_(self): return '<b>rich</b>'\n  def _repr_png_(self): return b'\\x89PNG'\n  def _repr_svg_(self): return '<svg/>'\n  def _repr_json_(self): return {'a': [1, None]}\n  def _repr_latex_(self): raise ValueError\n  def _repr_markdown_(self): return 5\nRich()";
    let done = run(&channel, Python, code).await;
    let [KernelEvent::Result(value)] = &done.events[..] else { panic!("{done:?}") };
    let forms: Vec<_> = value.data.iter().map(|(media, form)| format!("{media}={form}")).collect();
    let expected = [
        r#"application/json={"a":[1,null]}"#,
        r#"image/png="iVBORw==""#,
        r#"image/svg+xml="<svg/>""#,
        r#"text/html="<b>rich</b>""#,
        r#"text/plain="rich""#,
    ];
    assert_eq!(forms, expected);
    let bundle = "class Bundle:\n  def _repr_mimebundle_(self, include=None, exclude=None): return {'text/plain': 'b', 'text/html': 'x' * 10_000_000}, {}\nBundle()";
    let done = run(&channel, Python, bundle).await;
    let [KernelEvent::Result(value)] = &done.events[..] else { panic!("{done:?}") };
    assert_eq!((value.data["text/plain"].as_str(), value.omitted["text/html"]), (Some("b"), 10_000_000));
    let long = run(&channel, Python, "'x' * 50_000_000").await.value().unwrap();
    assert!(long.len() < 1_100_000 && long.ends_with("characters more)"), "{}", long.len());
    assert_eq!(run(&channel, Python, "'\\udc80'").await.value().unwrap(), "'\\udc80'");
    for nothing in ["None", "x = 5", "5;x = 6", "def f(): pass"] {
        assert_eq!(run(&channel, Python, nothing).await.value(), None, "{nothing}");
    }
    let broken = run(&channel, Python, "class Broken:\n  def __repr__(self): raise KeyError('r')\nBroken()").await;
    assert_eq!((broken.code(), broken.ran().error.as_ref().unwrap().name.as_str()), (1, "KeyError"));
}

#[tokio::test]
async fn python_awaits_reads_no_input_and_goes_on_when_its_streams_were_taken_away() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    assert_eq!(
        run(&channel, Python, "import asyncio\nawait asyncio.sleep(0, 'slept')").await.value().unwrap(),
        "'slept'"
    );
    assert_eq!(run(&channel, Python, "input()").await.ran().error.as_ref().unwrap().name, "EOFError");
    let taken = "import sys, os\nprint('said'); print('blamed', file=sys.stderr)\nsys.stderr = sys.stdout = None";
    let done = run(&channel, Python, taken).await;
    assert_eq!((done.out().as_str(), done.err().as_str(), done.code()), ("said\n", "blamed\n", 0));
    assert_eq!(print(&channel, Python, "print('again')").await, "again\n");
    assert_eq!(run(&channel, Python, "os.closerange(3, 256); 'alive'").await.value().unwrap(), "'alive'");
    let children = "import subprocess\nsubprocess.run('ls /proc/self/fd', shell=True, close_fds=False, capture_output=True, text=True).stdout.split()";
    let inherited = run(&channel, Python, children).await.value().unwrap();
    assert!(!inherited.contains("10"), "a child has {inherited}");
    let cut = run(&channel, Python, "print('before')\nos.closerange(3, 65536)\nprint('after')").await;
    assert_eq!((cut.out().as_str(), cut.ran().state_lost), ("before\nafter\n", true));
    assert_eq!(print(&channel, Python, "print('fresh')").await, "fresh\n");
}

#[tokio::test]
async fn a_module_in_the_workspace_is_the_users_and_not_the_drivers() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    for name in ["json", "ast", "traceback", "signal", "mine"] {
        std::fs::write(agent.workspace().join(format!("{name}.py")), "answer = 'mine'\n").unwrap();
    }
    assert_eq!(run(&channel, Python, "import mine; mine.answer").await.value().unwrap(), "'mine'");
    assert_eq!(run(&channel, Python, "1/0").await.code(), 1);
}

#[tokio::test]
async fn a_kernel_started_ahead_has_its_imports_and_an_empty_namespace() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = KernelStart::new(Python);
    start.imports = vec!["decimal".into(), "no_such_module".into()];
    start.env.insert("FOR_LIFE".into(), "1".into());
    let (kernel, failed) = channel.start_kernel(start.clone()).await.unwrap();
    assert_eq!((kernel.name.as_str(), kernel.execs), ("python", 0));
    assert!(failed["no_such_module"].contains("ModuleNotFoundError") && failed.len() == 1, "{failed:?}");
    let done = run(
        &channel,
        Python,
        "import sys, os\n'decimal' in sys.modules, 'decimal' in globals(), os.environ['FOR_LIFE']",
    )
    .await;
    assert_eq!(done.value().unwrap(), "(True, False, '1')");
    // Asked for again, it keeps its state.
    run(&channel, Python, "x = 3").await;
    channel.start_kernel(start).await.unwrap();
    assert_eq!(run(&channel, Python, "x").await.value().unwrap(), "3");
}

/// As much of matplotlib as the kernel touches: a figure that says its number where an image would be.
const PYPLOT: &str = "from matplotlib.figure import Figure
figures = {}
def figure(number=None):
    if number is None: number = max(figures, default=0) + 1
    return figures.setdefault(number, Figure(number))
def get_fignums(): return sorted(figures)
def close(which): figures.pop(which.number, None)
def show(): raise RuntimeError('there is no window')
";
const FIGURE: &str = "class Figure:
    def __init__(self, number): self.number = number
    def __repr__(self): return f'<Figure {self.number}>'
    def savefig(self, file, **options): file.write(b'figure %d' % self.number)
";

#[tokio::test]
async fn figures_are_shown_when_that_is_asked_for_and_at_the_end() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let package = agent.workspace().join("matplotlib");
    std::fs::create_dir(&package).unwrap();
    for (name, text) in [("__init__", "rcParams = {'backend': None}\n"), ("figure", FIGURE), ("pyplot", PYPLOT)] {
        std::fs::write(package.join(format!("{name}.py")), text).unwrap();
    }
    let code = "import matplotlib, matplotlib.pyplot as plt\nplt.figure(1); plt.show(); plt.figure(2); plt.figure(3)\nmatplotlib.rcParams['backend']";
    let done = run(&channel, Python, code).await;
    let shown: Vec<_> = done
        .events
        .iter()
        .map(|event| match event {
            KernelEvent::Display(value) => value.data["image/png"].as_str().unwrap().to_owned(),
            KernelEvent::Result(value) => value.data["text/plain"].as_str().unwrap().to_owned(),
            KernelEvent::Error { traceback, .. } => panic!("{traceback}"),
        })
        .collect();
    assert_eq!(shown, ["ZmlndXJlIDE=", "'agg'", "ZmlndXJlIDI=", "ZmlndXJlIDM="]);
    // As a value it is a result, and not shown again.
    let done = run(&channel, Python, "plt.figure(4)").await;
    let [KernelEvent::Result(value)] = &done.events[..] else { panic!("{done:?}") };
    assert_eq!(
        (value.data["image/png"].as_str(), value.data["text/plain"].as_str()),
        (Some("ZmlndXJlIDQ="), Some("<Figure 4>"))
    );
    assert!(run(&channel, Python, "plt.get_fignums()").await.value().unwrap() == "[]");
}

#[tokio::test]
async fn b20_builtins_that_the_user_has_replaced_are_not_the_drivers() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let replace = "import builtins; builtins.compile = builtins.exec = builtins.eval = builtins.open = builtins.__import__ = None";
    assert_eq!(run(&channel, Python, replace).await.code(), 0);
    let done = run(&channel, Python, "async def f(): return 7\nawait f()").await;
    assert_eq!((done.code(), done.value().as_deref(), done.err().as_str()), (0, Some("7"), ""));
    let failed = run(&channel, Python, "1\nexec('')").await;
    assert_eq!(failed.traceback().lines().filter(|line| line.contains("hearth")).count(), 0, "{failed:?}");
    assert!(failed.traceback().contains("line 2"), "{failed:?}");
    run(&channel, Python, "was = builtins.isinstance; del builtins.isinstance").await;
    let with_variable = KernelExec { env: [("A".to_owned(), "b".into())].into(), ..KernelExec::new(Python) };
    let done = exec(&channel, with_variable, "raise ValueError(9)").await.unwrap();
    assert_eq!((done.code(), done.ran().state_lost, done.err().as_str()), (1, false, ""));
    assert!(done.traceback().ends_with("ValueError: 9\n"), "{done:?}");
    run(&channel, Python, "builtins.isinstance = was").await;
    let done = run(&channel, Python, "(exec, open)").await;
    assert_eq!(done.value().unwrap(), "(None, None)", "what the user has changed stays so");
}

#[tokio::test]
async fn an_expression_alone_is_run_as_it_would_be_behind_other_code() {
    if !is_here(Python) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, Python, "import asyncio, warnings\nx = 7\nwarnings.simplefilter('always')").await;
    for code in [
        "1 + 1",
        "x # seven",
        "f'{x}' 'b'",
        "None",
        "print(x)",
        "(\"a\", *[x])",
        "[await asyncio.sleep(0, 'slept')]",
        "await asyncio.sleep(0, 'slept')",
        "print(1 / 0)",
        "missing",
        "1 +",
        "(yield 1)",
        "*x",
        " 1",
        "x; x",
        "'\\d', *[x]",
        "print('\\d'",
    ] {
        let told = |done: super::Done| {
            let error = done.ran().error.as_ref().map(|error| error.name.clone());
            (done.value(), done.out(), done.err().lines().count(), done.code(), error)
        };
        let alone = told(run(&channel, Python, code).await);
        assert_eq!(alone, told(run(&channel, Python, &format!("pass\n{code}")).await), "{code:?}");
    }
    let lines = run(&channel, Python, "missing(1)").await.traceback();
    assert!(lines.contains("    missing(1)\n") && lines.contains("line 1"), "{lines}");
}
