//! The javascript kernel.

use std::time::Instant;

use hearth_channel::KernelSent;
use hearth_protocol::kernel::{KernelEvent, KernelExec, KernelStart};

use super::{Javascript, exec, is_here, print, run};
use crate::support::{Agent, HANG, SOON};

#[tokio::test]
async fn code_that_ends_its_outputs_ends_them_for_nobody_else() {
    if !is_here(Javascript) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let ended = "await new Promise((done) => process.stdout.end('said\\n', done)); process.stderr.destroy(); 1";
    let done = run(&channel, Javascript, ended).await;
    assert_eq!((done.out().as_str(), done.value().as_deref()), ("said\n", Some("1")), "{done:?}");
    let next = run(&channel, Javascript, "console.log('out'); console.error('err')").await;
    assert_eq!((next.out().as_str(), next.err().as_str()), ("out\n", "err\n"), "{next:?}");
}

#[tokio::test]
async fn b19_javascript_keeps_variables_modules_functions_and_the_directory() {
    if !is_here(Javascript) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let code = "const fs = require('fs'); let x = 20; var y = 1; class Two { value() { return 2 } }\nfunction twice(n) { return n * 2 }\nfs.mkdirSync('deep'); process.chdir('deep'); process.env.KEPT = 'yes'";
    assert!(run(&channel, Javascript, code).await.ran().fresh);
    let done = run(
        &channel,
        Javascript,
        "[twice(x) + y + new Two().value(), process.cwd().split('/').pop(), fs.existsSync('.'), process.env.KEPT]",
    )
    .await;
    assert_eq!(done.value().unwrap(), "[ 43, 'deep', true, 'yes' ]");
    // The same code again declares the same names again.
    assert_eq!(run(&channel, Javascript, "const fs = require('fs'); let x = 5; x").await.value().unwrap(), "5");
    let imports = "import os, { EOL as end } from 'os'\nimport * as path from 'node:path'\n`import(${end.length}) from 'x'`; [typeof os.cpus, path.join('a', 'b'), (await import('fs')).existsSync('.')]";
    assert_eq!(run(&channel, Javascript, imports).await.value().unwrap(), "[ 'function', 'a/b', true ]");
    assert_eq!(run(&channel, Javascript, "path.sep + end").await.value().unwrap(), "'/\\n'");
}

#[tokio::test]
async fn b20_names_and_text_like_the_plumbing_change_nothing_in_javascript() {
    if !is_here(Javascript) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let children = run(&channel, Javascript, "require('child_process').execSync('ls /proc/self/fd').toString()").await;
    assert_eq!(children.value().unwrap(), "'0\\n1\\n2\\n3\\n'");
    run(&channel, Javascript, "var token = 1, answers = 2, requests = 3, running = 4, code = 5, exit_code = 6").await;
    run(&channel, Javascript, "JSON.stringify = JSON.parse = null; String.prototype.split = Array.prototype.map = null; process.stdout.write = Buffer.from = null; process.reallyExit = null").await;
    let done = run(&channel, Javascript, "exit_code + token").await;
    assert_eq!((done.code(), done.value().unwrap().as_str()), (0, "7"));
    // To write to whatever node has open would be the end of it: only what waits for nothing, as the driver's pipe, is tried.
    let forged = "for (const name of require('fs').readdirSync('/proc/self/fd')) try {
  const flags = parseInt(/flags:\\s*(\\d+)/.exec(require('fs').readFileSync(`/proc/self/fdinfo/${name}`, 'utf8'))[1], 8);
  if (name > 2 && (flags & 3) === 1 && !(flags & 0o4000)) require('fs').writeSync(Number(name), '\\n {\"type\":\"done\",\"code\":7,\"interrupted\":false}\\ngarbage'), exit_code += 1;
} catch {}
exit_code > 6";
    let done = run(&channel, Javascript, forged).await;
    assert_eq!(
        (done.code(), done.value().unwrap().as_str()),
        (0, "true"),
        "one was found, and writing to it does nothing"
    );
}

#[tokio::test]
async fn javascript_errors_are_data_and_show_the_users_lines_only() {
    if !is_here(Javascript) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(
        &channel,
        Javascript,
        "function inner() { throw new TypeError('no') }\nasync function outer() { await null; inner() }",
    )
    .await;
    let failed = run(&channel, Javascript, "1\nawait outer()").await;
    let error = failed.ran().error.clone().unwrap();
    assert_eq!((failed.code(), error.name.as_str(), error.value.as_str()), (1, "TypeError", "no"));
    let traceback = failed.traceback();
    assert!(traceback.starts_with("TypeError: no\n    at inner (exec-1.js:1:"), "{traceback}");
    assert!(traceback.lines().skip(1).all(|line| line.contains("exec-")), "{traceback}");
    let syntax = run(&channel, Javascript, "let a = 1\nlet b = (;").await;
    assert!(
        syntax.traceback().starts_with("exec-3.js:2\nlet b = (;\n         ^\n\nSyntaxError"),
        "{}",
        syntax.traceback()
    );
    assert_eq!(run(&channel, Javascript, "throw 5").await.ran().error.as_ref().unwrap().value, "5");
    let late = "setTimeout(() => { throw new Error('late') }, 1); Promise.reject(new Error('unhandled')); await new Promise((done) => setTimeout(done, 20)); 'alive'";
    let done = run(&channel, Javascript, late).await;
    assert_eq!((done.code(), done.value().unwrap().as_str()), (0, "'alive'"));
    assert!(done.err().contains("Error: late") && done.err().contains("Error: unhandled"), "{done:?}");
}

#[tokio::test]
async fn b23_no_stack_in_javascript_shows_plumbing_frames() {
    if !is_here(Javascript) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    for code in [
        "try { null.x } catch (e) { console.log(e) }",
        "try { null.x } catch (e) { console.log(e.stack) } new Error('x').stack",
        "function deep(n) { if (n) return deep(n - 1); console.log(new Error('d').stack) } for (let n = 0; n < 12; n++) deep(n)",
        "new Error('x')",
        "await 1; console.log(new RangeError('later')); console.trace('t')",
        "Promise.reject(new Error('r')).catch((e) => console.log(e)); await new Promise((done) => setTimeout(done, 5))",
        "const o = {}; Error.captureStackTrace(o); console.log(o.stack)",
        "eval('new Error(1)')",
        "[1].map(() => new Error('m'))",
        "Error.prepareStackTrace = (e, frames) => frames.map((frame) => `${frame.getScriptNameOrSourceURL()}`).join(); console.log(new Error('mine').stack)",
        "const old = Error.prepareStackTrace; Error.prepareStackTrace = undefined; console.log(new Error('plain')); Error.prepareStackTrace = old; new Error('again').stack",
    ] {
        let done = run(&channel, Javascript, code).await;
        let said = format!("{}{}{:?}", done.out(), done.err(), done.events);
        for plumbing in ["node:inspector", "hearth-driver", "Session.post"] {
            assert!(!said.contains(plumbing), "{code}: {said}");
        }
        assert!(said.contains("exec-"), "what is the user's is shown: {code}: {said}");
    }
    assert_eq!(run(&channel, Javascript, "new Error('again').stack").await.value().unwrap(), "'exec-12.js'");
}

#[tokio::test]
async fn b22_an_interrupt_ends_a_loop_and_an_await_in_javascript() {
    if !is_here(Javascript) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, Javascript, "let x = 7").await;
    for code in ["console.log('on'); while (true) {}", "console.log('on'); await new Promise(() => {})"] {
        let operation = channel.exec_in_kernel(KernelExec::new(Javascript), code).await.unwrap();
        assert!(matches!(operation.next().await.unwrap(), Some(KernelSent::Output(..))));
        let asked = Instant::now();
        channel.interrupt_kernel("javascript").await.unwrap();
        let ran = loop {
            if let KernelSent::Ran(ran) = tokio::time::timeout(HANG, operation.next()).await.unwrap().unwrap().unwrap()
            {
                break ran;
            }
        };
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
        assert_eq!((ran.code, ran.interrupted, ran.state_lost), (130, true, false), "{code}");
        assert_eq!(run(&channel, Javascript, "x").await.value().unwrap(), "7");
    }
}

#[tokio::test]
async fn b24_wide_text_and_much_of_it_arrives_intact_from_javascript() {
    if !is_here(Javascript) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let expected = "中".repeat(40_000);
    assert_eq!(print(&channel, Javascript, "process.stdout.write('中'.repeat(40000))").await, expected);
    assert_eq!(run(&channel, Javascript, "'中'.repeat(40000)").await.value().unwrap(), format!("'{expected}'"));
    assert_eq!(print(&channel, Javascript, "console.log('x'.repeat(3000000))").await.len(), 3_000_001);
    let exit = run(&channel, Javascript, "console.log('y'.repeat(3000000)); process.exit(5)").await;
    assert_eq!((exit.stdout.len(), exit.code(), exit.ran().state_lost), (3_000_001, 5, true));
    assert_eq!(run(&channel, Javascript, "'\\ud800'").await.code(), 0);
}

#[tokio::test]
async fn a_javascript_value_comes_in_its_forms_and_variables_go_with_their_exec() {
    if !is_here(Javascript) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = KernelStart::new(Javascript);
    start.imports = vec!["node:zlib".into(), "no-such-module".into()];
    let (_, failed) = channel.start_kernel(start).await.unwrap();
    assert!(failed.len() == 1 && failed.contains_key("no-such-module"), "{failed:?}");
    let code = "({ _repr_html_() { return '<b/>' }, _repr_png_() { return Buffer.from([1, 2]) }, [Symbol.for('Jupyter.display')]() { return { 'text/plain': 'rich', 'application/json': { a: [1] } } } })";
    let done = run(&channel, Javascript, code).await;
    let [KernelEvent::Result(value)] = &done.events[..] else { panic!("{done:?}") };
    let forms: Vec<_> = value.data.iter().map(|(media, form)| format!("{media}={form}")).collect();
    assert_eq!(
        forms,
        [r#"application/json={"a":[1]}"#, r#"image/png="AQI=""#, r#"text/html="<b/>""#, r#"text/plain="rich""#]
    );
    let mut with_env = KernelExec::new(Javascript);
    with_env.env.insert("GREETING".into(), "it's\n中".into());
    assert_eq!(exec(&channel, with_env, "process.env.GREETING").await.unwrap().value().unwrap(), "\"it's\\n中\"");
    assert_eq!(run(&channel, Javascript, "process.env.GREETING").await.value(), None);
}
