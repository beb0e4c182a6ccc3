use proptest::prelude::*;

use super::*;

fn terminal() -> Terminal {
    Terminal::new(20, 5)
}

fn fed(bytes: &[u8]) -> Terminal {
    let mut terminal = terminal();
    terminal.feed(bytes);
    terminal
}

fn all(terminal: &Terminal) -> String {
    terminal.read(0, usize::MAX).text
}

#[track_caller]
fn check(bytes: &str, shown: &str) {
    assert_eq!(all(&fed(bytes.as_bytes())), shown, "{bytes:?}");
}

#[test]
fn control_characters_move_and_overwrite() {
    check("one\r\ntwo\r\n", "one\ntwo\n");
    check("10%\r20%\r100%\r\ndone", "100%\ndone");
    check("abc\x08\x08X", "aXc");
    check("abc\x08 \x08", "ab");
    check("a\tb", "a       b");
    check("a\n b", "a\n  b");
    check("bell\x07 null\0 shift\x0f.", "bell null shift.");
    check("tail   \r\nnext", "tail\nnext");
    check("$ ", "$ ");
}

#[test]
fn colours_titles_and_questions_change_no_text() {
    check("\x1b[1;31mred\x1b[0m \x1b[38;5;9mx\x1b[38:2::1:2:3my", "red xy");
    check("\x1b]0;a title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link");
    check("\x1b[6n\x1b[c\x1b[?2004h\x1b[>4;1m\x1bP1$qm\x1b\\ok", "ok");
}

#[test]
fn lines_and_screens_are_erased() {
    check("hello\r\x1b[Kbye", "bye");
    check("hello\x1b[3D\x1b[K", "he");
    check("hello\x1b[2D\x1b[1K", "    o");
    check("hello\x1b[2K\rnew", "new");
    check("abcdef\x1b[4D\x1b[2P", "abef");
    check("abcdef\x1b[4D\x1b[2@", "ab  cdef");
    check("abcdef\x1b[4D\x1b[2X", "ab  ef");
    check("a\r\nb\r\nc\x1b[1;1H\x1b[2B\x1b[1J", "\n\n");
    check("a\r\nb\r\nc\x1b[2;1H\x1b[J", "a\n");
    check("a\r\nb\r\nc\x1b[2;1H\x1b[M", "a\nc");
    check("a\r\nb\r\nc\x1b[2;1H\x1b[Lx", "a\nx\nb\nc");
}

#[test]
fn what_is_cleared_has_only_scrolled_off() {
    check("before\r\n\x1b[H\x1b[2J\x1b[3Jafter", "before\nafter");
    check("before\r\n\x1b[H\x1b[Jafter", "before\nafter");
    check("before\r\n\x1bcafter", "before\nafter");
}

#[test]
fn the_cursor_goes_where_it_is_sent() {
    check("\x1b[2;3Hx\x1b[1;1Hy", "y\n  x");
    check("\x1b[3Bx\x1b[2A\x1b[5Gy\x1b[2dz", "\n    yz\n\nx");
    check("a\x1b7bcd\x1b8X", "aXcd");
    check("ab\x1b[5Cc", "ab     c");
    check("a\x1b[3b", "aaaa");
    check("a\r\nb\x1bMx\x1bEy", "ax\ny");
    check("abc\x1b[4h\x1b[2DX\x1b[4l", "aXbc");
    check("far\x1b[999;999Hx", &format!("far\n\n\n\n{}x", " ".repeat(19)));
}

#[test]
fn a_line_too_long_for_the_screen_is_one_line_of_text() {
    let long = "0123456789".repeat(7);
    check(&format!("{long}\r\nnext"), &format!("{long}\nnext"));
    check(&format!("{}\r\nnext", "x".repeat(20)), &format!("{}\nnext", "x".repeat(20)));
    check("\x1b[?7labcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrsz");
    let longer = "0123456789".repeat(40);
    check(&longer, &longer);
}

#[test]
fn wide_and_combined_characters_keep_their_places() {
    check("中文字\r\nx", "中文字\nx");
    check("中\x08X", " X");
    check("中文\rX", "X 文");
    check("e\u{301}a\u{308}\u{323}", "e\u{301}a\u{308}\u{323}");
    check("中\u{301}", "中\u{301}");
    check(&format!("{}中", "x".repeat(19)), &format!("{}中", "x".repeat(19)));
    check("中文\x1b[1;2H\x1b[K", " ");
    check("a中b\x1b[1;2H\x1b[P", "a b");
}

#[test]
fn line_drawing_is_drawn() {
    check("\x1b(0lqk\x1b(B lqk", "┌─┐ lqk");
    check("\x1b)0a\x0eq\x0fq", "a─q");
}

#[test]
fn what_scrolls_off_is_still_read_and_margins_hold() {
    let lines: Vec<String> = (1..=100).map(|number| format!("line {number}")).collect();
    check(&lines.join("\r\n"), &lines.join("\n"));
    check("top\x1b[2;3r\x1b[2;1Ha\r\nb\r\nc\x1b[r\x1b[5;1Hend", "top\nb\nc\n\nend");
}

#[test]
fn an_editor_has_a_screen_of_its_own_and_leaves_no_trace() {
    let mut terminal = fed(b"$ edit\r\n");
    terminal.feed(b"\x1b[?1049h\x1b[H\x1b[2Jtext of a file\r\n~");
    let shown = terminal.read(0, usize::MAX);
    assert_eq!((shown.text.as_str(), shown.alternate), ("text of a file\n~", true));
    let before = shown.next;
    terminal.feed(b"\x1b[?1049l$ ");
    assert_eq!(all(&terminal), "$ edit\n$ ");
    let after = terminal.read(before, usize::MAX);
    assert_eq!((after.text.as_str(), after.alternate), ("$ ", false));
}

#[test]
fn a_character_cut_in_two_is_one() {
    let mut terminal = terminal();
    for byte in "a中é🦀z".bytes() {
        terminal.feed(&[byte]);
        terminal.read(0, usize::MAX);
    }
    assert_eq!(all(&terminal), "a中é🦀z");
    assert_eq!(all(&fed(b"a\xff\xfeb\xe4\xb8")), "a\u{fffd}\u{fffd}b");
}

#[test]
fn no_character_is_lost_between_two_that_are_cut() {
    for cut in 1..12 {
        let mut terminal = terminal();
        let (begin, end) = "éxéyéz".as_bytes().split_at(cut.min(8));
        terminal.feed(begin);
        end.chunks(3).for_each(|piece| terminal.feed(piece));
        assert_eq!(all(&terminal), "éxéyéz", "cut at {cut}");
    }
}

#[test]
fn a_read_has_the_lines_that_have_changed_since_the_last() {
    let mut terminal = fed(b"one\r\ntwo\r\n$ ");
    let first = terminal.read(0, usize::MAX);
    assert_eq!((first.text.as_str(), first.count, first.more), ("one\ntwo\n$ ", 3, false));
    let nothing = terminal.read(first.next, usize::MAX);
    assert_eq!((nothing.text.as_str(), nothing.count, nothing.next), ("", 0, first.next));
    terminal.feed(b"echo\r\necho");
    let second = terminal.read(first.next, usize::MAX);
    assert_eq!((second.text.as_str(), second.first), ("$ echo\necho", 2));
    terminal.feed(b"\x1b[2;1HTWO");
    assert_eq!(terminal.read(second.next, usize::MAX).text, "TWO");
    terminal.feed(b"\x1b[1;31m");
    assert!(!terminal.has_changed(terminal.read(0, usize::MAX).next));
}

#[test]
fn a_limit_splits_a_read_between_lines_and_loses_none() {
    let lines: Vec<String> = (1..=500).map(|number| format!("line {number}")).collect();
    let terminal = fed(lines.join("\r\n").as_bytes());
    let (mut since, mut read) = (0, Vec::new());
    loop {
        let part = terminal.read(since, 100);
        assert!(part.text.len() <= 100);
        read.extend(part.text.split('\n').map(str::to_owned));
        since = part.next;
        if !part.more {
            break;
        }
    }
    assert_eq!(read, lines);
    let long = fed("y".repeat(1000).as_bytes());
    assert_eq!(long.read(0, 10).text.len(), 1000);
}

#[test]
fn memory_is_bounded_whatever_is_written_and_a_loss_is_told() {
    let mut terminal = Terminal::new(512, 512);
    let start = terminal.read(0, usize::MAX).next;
    for round in 0..40_u32 {
        let line = format!("{round} {}\r\n", "z".repeat(70));
        terminal.feed(line.repeat(2000).as_bytes());
        terminal.feed("e\u{301}\u{301}".repeat(5000).as_bytes());
        // Neither a title nor a string without an end is gathered.
        terminal.feed(b"\x1b]0;");
        terminal.feed(&[b't'; 100_000]);
        terminal.feed(b"\x07\x1bP");
        terminal.feed(&[b'd'; 100_000]);
        terminal.feed(b"\x1b\\");
    }
    let kept = terminal.read(start, usize::MAX);
    assert!(kept.gap && kept.text.len() < 3 << 20, "{} bytes", kept.text.len());
    assert!(!terminal.read(kept.next, usize::MAX).gap);
    let parser = size_of_val(&terminal.parser);
    assert!(parser < 4096, "the parser holds {parser} bytes, and all in itself: `vte` without `std`");
}

#[test]
fn a_smaller_screen_scrolls_off_and_a_wider_one_keeps_its_text() {
    let mut terminal = fed(b"1\r\n2\r\n3\r\n4\r\n5");
    terminal.resize(20, 2);
    assert_eq!(all(&terminal), "1\n2\n3\n4\n5");
    terminal.feed(b"\x1b[1;1Hx");
    assert_eq!(all(&terminal), "1\n2\n3\nx\n5");
    terminal.resize(3, 4);
    terminal.feed(b"\x1b[4;1Habcdef");
    assert_eq!(all(&terminal), "1\n2\n3\nx\n5\n\nabcdef");
    terminal.resize(1, 1);
    terminal.feed("中文".as_bytes());
    terminal.resize(4, 2);
    terminal.feed(b"\r\nend");
    assert!(all(&terminal).ends_with("\nend"));
}

#[test]
fn a_repetition_beyond_all_reason_takes_no_time() {
    let mut terminal = Terminal::new(512, 512);
    let begun = std::time::Instant::now();
    for action in ['b', 'S', 'T', 'L', 'M', '@', 'P', 'X', 'I', 'Z', 'A', 'B', 'C'] {
        terminal.feed(format!("a\x1b[65535{action}").repeat(100).as_bytes());
    }
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

/// Text, control functions that matter, and what is neither.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let text = "[ -~é中\u{301}🦀]{0,12}".prop_map(String::into_bytes);
    let control = prop::sample::select(vec!["\r", "\n", "\r\n", "\t", "\x08", "\x0e", "\x0f"])
        .prop_map(|control| control.as_bytes().to_vec());
    let sequence =
        ("[?!]?", prop::collection::vec(0..60_u32, 0..3), "[@A-Z`a-z]").prop_map(|(prefix, params, action)| {
            let params: Vec<_> = params.iter().map(u32::to_string).collect();
            format!("\x1b[{prefix}{}{action}", params.join(";")).into_bytes()
        });
    let modes = prop::sample::select(vec![
        "\x1b[?1049h",
        "\x1b[?1049l",
        "\x1b[?6h",
        "\x1b[?7l",
        "\x1b[4h",
        "\x1b[4l",
        "\x1b7",
        "\x1b8",
        "\x1bM",
        "\x1bc",
        "\x1b(0",
        "\x1b(B",
    ])
    .prop_map(|mode| mode.as_bytes().to_vec());
    let piece =
        prop_oneof![4 => text, 2 => control, 3 => sequence, 1 => modes, 1 => prop::collection::vec(any::<u8>(), 0..9)];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_that_is_written_breaks_the_screen_and_no_cut_changes_it(
        bytes in stream(),
        sizes in prop::collection::vec((1..30_u16, 1..10_u16, 0..1000_usize), 1..4),
        cut in 1..7_usize,
    ) {
        let mut whole = Terminal::new(sizes[0].0, sizes[0].1);
        let mut cut_up = Terminal::new(sizes[0].0, sizes[0].1);
        let mut rest = bytes.as_slice();
        for (columns, rows, length) in sizes {
            let (piece, behind) = rest.split_at(length.min(rest.len()));
            whole.resize(columns, rows);
            cut_up.resize(columns, rows);
            whole.feed(piece);
            piece.chunks(cut).for_each(|piece| cut_up.feed(piece));
            rest = behind;
        }
        prop_assert_eq!(whole.read(0, usize::MAX), cut_up.read(0, usize::MAX));
    }

    #[test]
    fn reading_in_parts_loses_no_line_of_plain_output(lines in prop::collection::vec("[a-z ]{0,50}", 1..60), every in 1..9_usize) {
        let (mut terminal, mut since, mut read) = (terminal(), 0, Vec::<String>::new());
        let mut take = |terminal: &Terminal| {
            let part = terminal.read(since, usize::MAX);
            if part.count > 0 {
                // A line that was read before it was complete comes again.
                read.truncate(part.first as usize);
                read.extend(part.text.split('\n').map(|line| line.trim_end().to_owned()));
            }
            since = part.next;
            read.clone()
        };
        for (number, line) in lines.iter().enumerate() {
            let (begin, end) = line.split_at(line.len() / 2);
            terminal.feed(begin.as_bytes());
            if number % every == 0 {
                take(&terminal);
            }
            terminal.feed(end.as_bytes());
            terminal.feed(b"\r\n");
        }
        let expected: Vec<_> = lines.iter().map(|line| line.trim_end().to_owned()).chain([String::new()]).collect();
        prop_assert_eq!(take(&terminal), expected);
    }
}
