use std::fs;

use hearth_protocol::ErrorCode;
use hearth_protocol::files::Case;
use proptest::prelude::*;

use super::*;

fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = Root::open(directory.path(), "/workspace", None).unwrap();
    (directory, root)
}

fn searched(root: &Root, asked: &Search) -> Result<(Vec<Line>, Searched), ErrorCode> {
    let mut lines = Vec::new();
    let mut take = |line| {
        lines.push(line);
        Ok(())
    };
    let result = search(root, asked, &mut take, &|| true).map_err(|error| error.code())?;
    Ok((lines, result))
}

fn places(root: &Root, asked: &Search) -> Vec<String> {
    let (lines, _) = searched(root, asked).unwrap();
    lines.iter().map(|line| format!("{}:{}", line.path.to_string_lossy(), line.line)).collect()
}

/// The lines of one text, those with a match marked.
fn told(text: &str, asked: &Search) -> Vec<String> {
    let (_directory, root) = tree(&[("f", text)]);
    let (lines, _) = searched(&root, asked).unwrap();
    let mark = |line: &Line| if line.spans.is_empty() { '-' } else { ':' };
    lines.iter().map(|line| format!("{}{}{}", line.line, mark(line), line.text.to_string_lossy())).collect()
}

#[test]
fn a_byte_order_mark_is_no_text_and_says_how_the_text_is_written() {
    let (directory, root) = tree(&[]);
    let text = format!("foo bar\n{}\u{1f525} foo\nend", "long ".repeat(40_000));
    let utf16 = |order: fn(u16) -> [u8; 2]| {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(order).collect::<Vec<u8>>()
    };
    let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    for (name, bytes) in [("a", marked), ("b", utf16(u16::to_le_bytes)), ("c", utf16(u16::to_be_bytes))] {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    // Half a unit, half a pair, nothing, and no text.
    for (name, bytes) in
        [("d", b"\xff\xfex".as_slice()), ("e", b"\xfe\xff\xd8\x3d"), ("f", b"\xff\xfe"), ("g", b"\xff\xfe\0\0")]
    {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    assert_eq!(places(&root, &Search::new("", "^foo")), ["a:1", "b:1", "c:1"]);
    assert_eq!(places(&root, &Search::new("", "^end$")), ["a:3", "b:3", "c:3"]);
    assert_eq!(places(&root, &Search::new("", "\u{1f525} foo")), ["a:2", "b:2", "c:2"]);
    assert_eq!(places(&root, &Search::new("", "^\u{fffd}$")), ["d:1", "e:1"]);
    let (_, searched) = searched(&root, &Search::new("", "foo")).unwrap();
    assert_eq!((searched.matches, searched.files, searched.skipped), (6, 6, 1));
}

#[test]
fn lines_come_with_their_numbers_and_the_places_of_matches() {
    let (_directory, root) = tree(&[("a/f", "one two\r\n\nthree two two\nfour")]);
    let (lines, result) = searched(&root, &Search::new("", "t[wh]")).unwrap();
    assert_eq!(lines[0].spans, [(4, 6)]);
    assert_eq!((lines[0].text.clone(), lines[0].line), ("one two".into(), 1));
    assert_eq!(lines[1].spans, [(0, 2), (6, 8), (10, 12)]);
    assert_eq!((lines[1].path.clone(), lines[1].line), ("a/f".into(), 3));
    assert_eq!((result.matches, result.files, result.bytes, result.enough), (2, 1, 28, None));
}

#[test]
fn a_match_is_within_one_line() {
    assert_eq!(told("a\nb\nab\n", &Search::new("f", r"a\s*b")), ["3:ab"]);
    assert_eq!(told("x\n\ny", &Search::new("f", "^$")), ["2:"]);
    assert_eq!(told("ab\r\nb\r\n", &Search::new("f", "b$")), ["1:ab", "2:b"]);
    assert_eq!(told("a\nba\n", &Search::new("f", "^a")), ["1:a"]);
    assert_eq!(told("a\nb", &Search::new("f", "(?s)a.*")), ["1:a"]);
    assert_eq!(told("", &Search::new("f", "x*")), Vec::<String>::new());
    assert_eq!(told("a\n", &Search::new("f", "x*")), ["1:a"]);
}

#[test]
fn ways_to_ask() {
    let text = "cat\nCat\nconcat\na.b\naxb\n";
    let with = |pattern: &str, change: fn(&mut Search)| {
        let mut asked = Search::new("f", pattern);
        change(&mut asked);
        told(text, &asked)
    };
    assert_eq!(with("cat", |asked| asked.case = Case::Insensitive), ["1:cat", "2:Cat", "3:concat"]);
    assert_eq!(with("cat", |asked| asked.case = Case::Smart), ["1:cat", "2:Cat", "3:concat"]);
    assert_eq!(with("Cat", |asked| asked.case = Case::Smart), ["2:Cat"]);
    assert_eq!(with("cat", |asked| asked.word = true), ["1:cat"]);
    assert_eq!(with("a.b", |asked| asked.literal = true), ["4:a.b"]);
    assert_eq!(with("a", |asked| asked.limit_per_file = Some(2)), ["1:cat", "2:Cat"]);
}

#[test]
fn lines_around_a_match_are_told_once_and_in_order() {
    let text: String = (1..=12).map(|n| if n % 5 == 0 { format!("hit{n}\n") } else { format!("{n}\n") }).collect();
    let asked = Search { before: 2, after: 2, ..Search::new("f", "hit") };
    assert_eq!(told(&text, &asked), ["3-3", "4-4", "5:hit5", "6-6", "7-7", "8-8", "9-9", "10:hit10", "11-11", "12-12"]);
    let asked = Search { before: 4, after: 9, limit: Some(1), ..Search::new("f", "hit") };
    let expected: Vec<String> = (1..=12)
        .map(|n| {
            format!("{n}{}{}", if n == 5 { ":hit" } else { "-" }, if n % 5 == 0 && n != 5 { "hit" } else { "" })
                + &n.to_string()
        })
        .collect();
    assert_eq!(told(&text, &asked), expected);
}

#[test]
fn long_lines_are_cut_around_the_match_and_take_no_more_memory() {
    let text = format!("{}needle{}\nneedle\n", "x".repeat(3_000_000), "y".repeat(100_000));
    let (_directory, root) = tree(&[("f", &text)]);
    let (lines, result) = searched(&root, &Search { line_bytes: Some(100), ..Search::new("", "needle") }).unwrap();
    assert_eq!((lines[0].line, lines[1].line, result.matches), (1, 2, 2));
    assert!(lines[0].cut && !lines[1].cut);
    assert_eq!(lines[0].text.as_bytes().len(), 100);
    let (start, end) = lines[0].spans[0];
    assert_eq!(&lines[0].text.as_bytes()[start as usize..end as usize], b"needle");
    let euro = format!("{}needle{}", "€".repeat(100), "€".repeat(100));
    let (_directory, root) = tree(&[("f", &euro)]);
    for line_bytes in 20..40 {
        let asked = Search { line_bytes: Some(line_bytes), ..Search::new("", "needle") };
        let (lines, _) = searched(&root, &asked).unwrap();
        let text = std::str::from_utf8(lines[0].text.as_bytes()).expect("no character is cut");
        assert!(text.contains("needle") && text.len() <= line_bytes as usize, "{text}");
    }
}

#[test]
fn what_is_hidden_ignored_or_binary_is_left_out_unless_asked_for() {
    let files = [
        (".gitignore", "target/\n*.log\n!kept.log\n/top\n"),
        ("a.rs", "x"),
        ("b.log", "x"),
        ("kept.log", "x"),
        ("top", "x"),
        (".hidden/f", "x"),
        ("binary", "x\0"),
        ("sub/top", "x"),
        ("sub/.ignore", "!b.log\nno.rs\n"),
        ("sub/b.log", "x"),
        ("sub/no.rs", "x"),
        ("target/f.rs", "x"),
    ];
    let (directory, root) = tree(&files);
    std::os::unix::fs::symlink("a.rs", directory.path().join("link.rs")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("fifo"), rustix::fs::Mode::from_raw_mode(0o600))
        .unwrap();
    let plain = Search::new("", "x");
    assert_eq!(places(&root, &plain), ["a.rs:1", "kept.log:1", "sub/b.log:1", "sub/top:1"]);
    assert_eq!(searched(&root, &plain).unwrap().1.skipped, 1);
    // The rules above the searched directory hold in it too.
    assert_eq!(places(&root, &Search::new("sub", "x")), ["sub/b.log:1", "sub/top:1"]);
    let everything = Search { hidden: true, ignored: true, globs: vec!["!*.log".into()], ..plain.clone() };
    assert_eq!(
        places(&root, &everything),
        [".hidden/f:1", "a.rs:1", "sub/no.rs:1", "sub/top:1", "target/f.rs:1", "top:1"]
    );
    let rust = Search { globs: vec!["*.rs".into()], ..plain.clone() };
    assert_eq!(places(&root, &rust), ["a.rs:1"]);
    // What is named is searched, whatever the rules.
    for path in ["b.log", "link.rs", ".hidden/f"] {
        assert_eq!(places(&root, &Search::new(path, "x")), [format!("{path}:1")]);
    }
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let (directory, root) = tree(&[("f", "x")]);
    std::os::unix::fs::symlink("/tmp", directory.path().join("t")).unwrap();
    let refused = |asked: Search| searched(&root, &asked).unwrap_err();
    for pattern in ["(", "a{99999}{99999}", r"\Ax", r"x\z", "[z-a]", r"\p{Nonsense}"] {
        assert_eq!(refused(Search::new("", pattern)), ErrorCode::InvalidField, "{pattern}");
    }
    assert_eq!(refused(Search { globs: vec!["[".into()], ..Search::new("", "x") }), ErrorCode::InvalidField);
    for path in ["t/x", "t", "../x", "/etc/hostname"] {
        assert_eq!(refused(Search::new(path, "x")), ErrorCode::OutsideRoot, "{path}");
    }
    assert_eq!(refused(Search::new("none", "x")), ErrorCode::NotFound);
}

#[test]
fn bounds_end_a_search_and_are_told() {
    let files: Vec<(String, &str)> = (0..50).map(|n| (format!("{n:02}"), "x\nx\n")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let (_directory, root) = tree(&files);
    let (lines, result) = searched(&root, &Search { limit: Some(7), ..Search::new("", "x") }).unwrap();
    assert_eq!((lines.len(), result.matches, result.files, result.enough), (7, 7, 4, Some(Enough::Matches)));
    let asked = std::cell::Cell::new(0);
    let wanted = || asked.replace(asked.get() + 1) < 20;
    let result = search(&root, &Search::new("", "x"), &mut |_| Ok(()), &wanted).unwrap();
    assert_eq!(result.enough, Some(Enough::Time));
    let failed = search(&root, &Search::new("", "x"), &mut |_| Err(io::ErrorKind::BrokenPipe.into()), &|| true);
    assert!(failed.is_err());
}

proptest! {
    #[test]
    fn pieces_find_what_lines_alone_would(
        lines in prop::collection::vec("[ab\r]{0,6}", 0..40),
        pattern in prop::sample::select(vec!["a", "^b", "b$", "a+b", "", r"\ba", "a[^b]*b", r"a\s", "(a|b)b"]),
        before in 0..3_u32,
        after in 0..3_u32,
        piece in 1..30_usize,
    ) {
        let text = lines.join("\n");
        let regex = pattern::compile(&Search::new("", pattern)).unwrap();
        let mut numbers = Vec::new();
        // What std takes for lines, and a search too: the last one only if there is something in it.
        for (index, line) in text.split_terminator('\n').enumerate() {
            if regex.is_match(line.strip_suffix('\r').unwrap_or(line).as_bytes()) {
                numbers.push(index as u64 + 1);
            }
        }
        let total = text.split_terminator('\n').count() as u64;
        let around: Vec<u64> = (1..=total).filter(|line| {
            numbers.iter().any(|number| *number <= line + u64::from(before) && *line <= number + u64::from(after))
        }).collect();
        let bounds = Bounds { before, after, line_bytes: 100 };
        let mut scanner = Scanner::new(regex, bounds);
        scanner.piece = piece;
        let (mut matching, mut told) = (Vec::new(), Vec::new());
        let mut send = |found: lines::Found<'_>| {
            if !found.spans.is_empty() {
                matching.push(found.number);
            }
            told.push(found.number);
            Ok(())
        };
        scanner.scan(&mut text.as_bytes(), u64::MAX, &mut send, &|| false);
        prop_assert_eq!(matching, numbers);
        prop_assert_eq!(told, around);
    }
}
