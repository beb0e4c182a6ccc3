//! The bash kernel.

use hearth_protocol::kernel::KernelExec;

use super::{Bash, exec, is_here, print, run};
use crate::support::{Agent, SOON};

#[tokio::test]
async fn b19_bash_keeps_variables_functions_the_directory_and_exports() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    print(
        &channel,
        Bash,
        "x=1; export Y=two; mkdir deep; cd deep; f() { echo \"f $1\"; }; declare -A map=([a b]='c d'); list=(1 2 3)",
    )
    .await;
    let text = print(&channel, Bash, "echo $x ${PWD##*/} \"${map[a b]}\" ${list[2]}; f z; sh -c 'echo $Y'").await;
    assert_eq!(text, "1 deep c d 3\nf z\ntwo\n");
    assert_eq!(run(&channel, Bash, "(exit 7)").await.code(), 7);
    assert_eq!(print(&channel, Bash, "echo $?").await, "7\n");
    print(&channel, Bash, "exec 7>log; sleep 600 & pid=$!").await;
    print(&channel, Bash, "echo line >&7; kill $pid; wait $pid || true").await;
    assert_eq!(print(&channel, Bash, "cat log; jobs").await, "line\n");
    assert_eq!(print(&channel, Bash, "shopt -s extglob\ncase abc in @(abc|d)) echo matched;; esac").await, "matched\n");
}

#[tokio::test]
async fn b20_names_functions_and_text_like_the_plumbing_change_nothing_in_bash() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shadow = ["read", "printf", "echo", "exit", "trap", "set", "unset", "declare", "local", "cat", "while"];
    let functions: String =
        shadow[..10].iter().map(|name| format!("{name}() {{ command printf 'shadowed\\n'; }}\n")).collect();
    run(&channel, Bash, &format!("{functions}\nIFS=,; exit_code=3 header=4 code=5 ns=6 REPLY=7 hearth=8 status=9"))
        .await;
    let done = run(&channel, Bash, "a=1,2; command printf '%s|' $a $exit_code $REPLY $hearth; read").await;
    assert_eq!((done.code(), done.out().as_str()), (0, "1|2|3|7|8|shadowed\n"));
    let forged = "command printf '%s\\n' READY DONE ' DONE' 'x STATUS 3 h' '{\"type\":\"done\"}'; command printf '\\0READY\\0DONE\\0'";
    let done = run(&channel, Bash, forged).await;
    assert_eq!((done.code(), done.stdout.ends_with(b"\0READY\0DONE\0")), (0, true));
    let found = "for fd in {3..1100}; do { command printf '\\0DONE\\0 STATUS 3 h\\0garbage' >&$fd; } 2> /dev/null; done; command printf end";
    let done = run(&channel, Bash, found).await;
    assert_eq!((done.code(), done.out().as_str()), (0, "end"));
    run(&channel, Bash, "command unset IFS; \\builtin unset -f read printf echo exit trap set unset declare local cat")
        .await;
    assert_eq!(
        print(&channel, Bash, "echo $exit_code; ls /proc/self/fd | wc -l").await,
        "3\n4\n",
        "a child has a descriptor more"
    );
    let own: Vec<_> = ["hearth_name", "BASH_EXECUTION_STRING"].map(|name| format!("echo ${{{name}-unset}}")).to_vec();
    assert_eq!(print(&channel, Bash, &own.join(";")).await, "unset\nunset\n");
}

#[tokio::test]
async fn b20_options_and_traps_of_the_users_neither_show_nor_disturb_the_plumbing() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let traced = run(&channel, Bash, "set -x; echo a").await;
    assert_eq!((traced.out().as_str(), traced.err().trim_start_matches('+')), ("a\n", " echo a\n"));
    let traced = run(&channel, Bash, "echo b; false").await;
    let lines: Vec<_> = traced.err().lines().map(|line| line.trim_start_matches('+').to_owned()).collect();
    assert_eq!((lines, traced.code()), (vec![" echo b".to_owned(), " false".to_owned()], 1));
    run(&channel, Bash, "set +x").await;
    assert_eq!(print(&channel, Bash, "echo quiet").await, "quiet\n");
    print(&channel, Bash, "trap 'echo debug' DEBUG").await;
    assert_eq!(print(&channel, Bash, "echo 1; echo 2").await, "debug\n1\ndebug\n2\n");
    run(&channel, Bash, "trap - DEBUG").await;
    assert_eq!(print(&channel, Bash, "echo 3").await, "3\n");
    assert_eq!(run(&channel, Bash, "trap 'echo caught' ERR; false").await.out(), "caught\n");
    assert_eq!(print(&channel, Bash, "false; true").await, "caught\n");
    print(&channel, Bash, "trap - ERR; set -u; set -f; set -o noclobber").await;
    let options = print(&channel, Bash, "echo $-").await;
    assert!("ufC".chars().all(|option| options.contains(option)), "{options}");
}

#[tokio::test]
async fn b21_exit_and_errexit_in_bash_report_their_codes_and_keep_the_state() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let setup = "x='a\nb'; export Y=2; f() { echo \"f $1\"; }; alias l=ls; mkdir -p deep; cd deep; umask 077; readonly R=5; declare -ai n=(1 2); set -- p 'q r'; shopt -s nullglob";
    print(&channel, Bash, setup).await;
    for (code, expected) in [
        ("set -e; z=9; false; echo not here", 1),
        ("z=9; exit 3", 3),
        ("set -u; z=9; : $nowhere", 127),
        ("z=9; echo ${nowhere?}", 127),
    ] {
        let ended = run(&channel, Bash, code).await;
        assert_eq!((ended.code(), ended.out().as_str(), ended.ran().state_lost), (expected, "", false), "{code}");
        let status = run(&channel, Bash, "echo $? $-; set +eu").await;
        assert!(status.out().starts_with(&format!("{expected} ")), "{status:?}");
        let check = "echo \"$x|$Y|$z|${PWD##*/}|$(umask)|$R|${n[1]}|$2\"; f w; sh -c 'echo $Y'; alias l; shopt nullglob; unset z; R=6";
        let done = run(&channel, Bash, check).await;
        assert_eq!(done.out(), "a\nb|2|9|deep|0077|5|2|q r\nf w\n2\nalias l='ls'\nnullglob       \ton\n", "{code}");
        assert!(done.err().contains("readonly"), "{done:?}");
        assert!(!done.ran().fresh);
    }
}

#[tokio::test]
async fn b21_an_exit_trap_of_the_users_runs_and_the_state_survives_it() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    print(&channel, Bash, "x=1; trap 'echo bye $?' EXIT").await;
    let ended = run(&channel, Bash, "x=2; exit 4").await;
    assert_eq!((ended.out().as_str(), ended.code()), ("bye 4\n", 4));
    assert_eq!(print(&channel, Bash, "echo $x").await, "2\n", "and it is gone with the shell that had it");
    let same = run(&channel, Bash, "x=3; trap 'echo bye' EXIT; exit 5").await;
    assert_eq!((same.out().as_str(), same.code(), same.ran().state_lost), ("bye\n", 5, false));
    // In the place of the user's trap there is no other: the state is that from before.
    assert_eq!(print(&channel, Bash, "echo $x").await, "2\n");
    let inner = run(&channel, Bash, "code=outer; die() { local code=$1 other=3; exit $code; }; die 6").await;
    assert_eq!((inner.code(), inner.ran().state_lost), (6, false));
    assert_eq!(
        print(&channel, Bash, "echo $x ${code-none} ${other-none}").await,
        "2 none none\n",
        "no local variable becomes global"
    );
    print(&channel, Bash, "code=outer").await;
    run(&channel, Bash, "y=5; die 7").await;
    assert_eq!(print(&channel, Bash, "echo $code ${other-none} $y").await, "outer none 5\n");
}

#[tokio::test]
async fn b22_an_interrupt_ends_what_bash_waits_for_and_keeps_the_state() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    for code in
        ["x=3; echo on; sleep 600", "x=3; echo on; while :; do :; done", "x=3; echo on; read line < <(sleep 600)"]
    {
        let operation = channel.exec_in_kernel(KernelExec::new(Bash), code).await.unwrap();
        operation.next().await.unwrap().unwrap();
        channel.interrupt_kernel("bash").await.unwrap();
        let ran = loop {
            if let hearth_channel::KernelSent::Ran(ran) = operation.next().await.unwrap().unwrap() {
                break ran;
            }
        };
        assert_eq!((ran.code, ran.interrupted, ran.state_lost), (130, true, false), "{code}");
        assert_eq!(print(&channel, Bash, "echo $x; unset x").await, "3\n", "{code}");
    }
}

#[tokio::test]
async fn variables_for_one_exec_are_gone_with_it_in_bash() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    print(&channel, Bash, "KNOWN=before").await;
    let mut with_env = KernelExec::new(Bash);
    with_env.env =
        [("FRESH", "it's\n\\two"), ("KNOWN", "during")].map(|(name, value)| (name.to_owned(), value.into())).into();
    let code = "echo \"$FRESH|$KNOWN\"; sh -c 'printf \"%s\\n\" \"$FRESH\"'; f() { echo \"$KNOWN\"; }; f; KEPT=1";
    let done = exec(&channel, with_env, code).await.unwrap();
    assert_eq!(done.out(), "it's\n\\two|during\nit's\n\\two\nduring\n");
    assert_eq!(print(&channel, Bash, "echo ${FRESH-none} $KNOWN $KEPT").await, "none before 1\n");
}

#[tokio::test]
async fn mistakes_in_bash_are_reported_where_they_are_and_harm_nothing() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    for (code, status, said) in [
        ("echo a\nno_such_command", 127, "line 2: no_such_command: command not found"),
        ("echo a\nif", 2, "syntax error: unexpected end of file"),
        ("echo a\necho 'open", 2, "unexpected EOF while looking for matching"),
        ("echo a\necho )", 2, "syntax error near unexpected token"),
        // With a status and an option to bring back, of which nothing shows.
        ("if then", 2, "`if then'"),
        ("set -u; (exit 3)", 3, ""),
        ("echo $? )", 2, "`echo $? )'"),
        ("echo ${none}", 127, "line 1: none: unbound variable"),
        ("set +u", 0, ""),
    ] {
        let done = run(&channel, Bash, code).await;
        assert_eq!(done.code(), status, "{done:?}");
        assert!(done.err().contains(said), "{done:?}");
        assert!(!done.err().contains("builtin") && !done.err().contains("DONE"), "{done:?}");
    }
    assert_eq!(print(&channel, Bash, "cat <<END\nin it\nEND").await, "in it\n");
    let long = format!("echo ${{#v}}; v='{}'; echo ${{#v}}", "中'\\''".repeat(100_000));
    assert_eq!(run(&channel, Bash, &long).await.out(), "0\n200000\n");
    let done = run(&channel, Bash, "exec 2>/dev/null; echo hidden >&2; echo shown").await;
    assert_eq!((done.out().as_str(), done.code()), ("shown\n", 0));
    let replaced = run(&channel, Bash, "exec sh -c 'echo replaced; exit 9'").await;
    assert_eq!((replaced.out().as_str(), replaced.code()), ("replaced\n", 9));
}

#[tokio::test]
async fn b20_a_function_builtin_aliases_and_read_only_names_change_nothing_in_bash() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let hostile = [
        "y=1; builtin() { :; }",
        "readonly IFS",
        "readonly TMOUT=1",
        "readonly hearth hearth_name",
        "shopt -s expand_aliases; alias while=echo do=echo until=echo if=echo \"{\"=echo ll='echo aliased'",
        "readonly IFS TMOUT hearth; y=1; shopt -s expand_aliases; alias while=echo do=echo until=echo if=echo \"{\"=echo ll='echo aliased'; unset() { :; }; builtin() { echo mine \"$@\"; }; (exit 5)",
        "readonly POSIXLY_CORRECT",
        "set -o posix; builtin() { :; }",
    ];
    for code in hostile {
        let kernel = |code: &str| format!("y=1 z=1; {code}");
        let first = run(&channel, Bash, &kernel(code)).await;
        assert_eq!((first.ran().state_lost, first.err().as_str()), (false, ""), "{code}: {first:?}");
        for _ in 0..2 {
            let next = run(&channel, Bash, "echo $? $y $z").await;
            assert_eq!(next.out(), format!("{} 1 1\n", first.code()), "{code}: {next:?}");
            assert_eq!((next.ran().state_lost, next.ran().fresh, next.err().as_str()), (false, false, ""), "{code}");
            run(&channel, Bash, &format!("( \\exit {} )", first.code())).await;
        }
        // What the user has made is still there.
        let own = run(
            &channel,
            Bash,
            "type -t builtin; ll; [[ -o posix ]] && echo posix; shopt -q inherit_errexit && echo on",
        )
        .await;
        let expected = [
            (code.contains("builtin()"), "function"),
            (code.contains("ll="), "aliased"),
            (code.contains("posix;"), "posix"),
            (code.contains("posix;"), "on"),
        ];
        for (is_there, line) in expected {
            assert_eq!(own.out().lines().any(|said| said == line), is_there, "{code}: {line}: {own:?}");
        }
        // So is the state of a shell that ends.
        let ended = run(&channel, Bash, "exit 3").await;
        assert_eq!((ended.code(), ended.ran().state_lost), (3, false), "{code}: {ended:?}");
        let next = run(&channel, Bash, "echo $y $z").await;
        assert_eq!((next.out().as_str(), next.ran().fresh), ("1 1\n", false), "{code}: {next:?}");
        channel.stop_kernel("bash").await.unwrap();
    }
}

#[tokio::test]
async fn code_runs_beside_functions_called_builtin_and_eval_and_they_stay() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, Bash, "builtin() { echo b \"$@\"; }; eval() { echo e \"$@\"; }; x=1").await;
    let next = run(&channel, Bash, "echo $x\nbuiltin 2; eval 3; x=4; false").await;
    assert_eq!((next.out().as_str(), next.code()), ("1\nb 2\ne 3\n", 1), "{next:?}");
    assert_eq!(print(&channel, Bash, "echo $? $x; builtin 2; eval 3").await, "1 4\nb 2\ne 3\n");
    assert_eq!(run(&channel, Bash, "echo a; )").await.code(), 2);
    assert_eq!(print(&channel, Bash, "unset -f builtin eval; eval 'echo $x'").await, "4\n");
}

#[tokio::test]
async fn a_bash_that_can_run_nothing_more_ends_at_once_and_says_so() {
    if !is_here(Bash) {
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    std::fs::write(agent.workspace().join("shadow"), "builtin() { :; }").unwrap();
    // What ends where its state had been written before goes on from that.
    let cases =
        [("set -n", true), ("set -o noexec", true), (". ./shadow", true), ("enable -n echo eval builtin", false)];
    for (code, is_lost) in cases {
        let begun = std::time::Instant::now();
        let done = run(&channel, Bash, &format!("echo said; {code}")).await;
        assert_eq!(done.out(), "said\n", "{code}: {done:?}");
        let next = run(&channel, Bash, "echo on").await;
        let lost = done.ran().state_lost || next.ran().state_lost;
        assert_eq!((lost, done.ran().signal), (is_lost, None), "{code}: {done:?} {next:?}");
        assert!(done.err().len() + next.err().len() < 1000 && begun.elapsed() < SOON, "{code}: {done:?} {next:?}");
        assert_eq!(print(&channel, Bash, "echo on").await, "on\n", "{code}");
    }
}
