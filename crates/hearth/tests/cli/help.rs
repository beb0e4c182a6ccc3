//! What shells and `man` are told of the commands.

use std::process::Command;

use crate::support::{Home, assert_code, said, text};

#[test]
fn a_shell_completes_commands_and_options() {
    let home = Home::empty();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = home.hearth(&["completions", shell]);
        assert_code(&script, 0);
        assert!(text(&script.stdout).contains("hearth") && text(&script.stdout).contains("checkpoint"), "{shell}");
    }
    // Longer than one argument may be.
    let script = home.path().join("completions");
    std::fs::write(&script, home.hearth(&["completions", "bash"]).stdout).unwrap();
    let complete = |words: &str| {
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
                           _hearth hearth \"${{COMP_WORDS[COMP_CWORD]}}\" x; echo \"${{COMPREPLY[*]}}\"",
            script.display()
        );
        text(&Command::new("bash").args(["-c", &ask]).output().unwrap().stdout)
    };
    assert_eq!(complete("hearth chec").trim(), "checkpoint");
    assert!(complete("hearth sync --d").contains("--delete --dry-run"));
    for (arguments, named) in [(&["completions"][..], "SHELL"), (&["completions", "csh"], "csh")] {
        let refused = home.hearth(arguments);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains(named), "{}", said(&refused));
    }
}

#[test]
fn there_is_a_man_page_for_each_command() {
    let home = Home::empty();
    let pages = home.path().join("man/man1");
    assert_code(&home.hearth(&["man", pages.to_str().unwrap()]), 0);
    let read = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap();
    assert!(read("hearth.1").contains("hearth\\-sync"), "{}", read("hearth.1"));
    assert!(read("hearth-sync.1").contains("\\-\\-delete") && read("hearth-sync.1").contains("gitignore"));
    assert!(read("hearth-checkpoint-create.1").contains("Take a checkpoint of the workspace"));
    assert!(!pages.join("hearth-help.1").exists());
    let refused = home.hearth(&["man", "/dev/null/man1"]);
    assert_code(&refused, 125);
    assert!(text(&refused.stderr).contains("/dev/null/man1"), "{}", said(&refused));
}
