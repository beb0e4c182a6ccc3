use proptest::prelude::*;

use super::*;

fn automaton(values: &[&[u8]]) -> Rc<Automaton> {
    Rc::new(Automaton::new(values.iter().copied()).unwrap())
}

fn in_pieces<'a>(values: &[&[u8]], pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut redactor = Redactor::new(automaton(values));
    let mut shown = Vec::new();
    for piece in pieces {
        redactor.feed(piece, &mut |bytes| shown.extend_from_slice(bytes));
    }
    redactor.flush(&mut |bytes| shown.extend_from_slice(bytes));
    shown
}

/// What must come out, by the definition: each byte of each occurrence is hidden, and each run of overlapping ones is one mark.
fn by_definition(values: &[&[u8]], text: &[u8]) -> Vec<u8> {
    let mut occurrences: Vec<(usize, usize)> = Vec::new();
    for start in 0..text.len() {
        let fits = values.iter().filter(|value| !value.is_empty() && text[start..].starts_with(value));
        if let Some(longest) = fits.map(|value| value.len()).max() {
            match occurrences.last_mut() {
                Some((_, end)) if start < *end => *end = (*end).max(start + longest),
                _ => occurrences.push((start, start + longest)),
            }
        }
    }
    let mut shown = Vec::new();
    let mut at = 0;
    for (start, end) in occurrences {
        shown.extend_from_slice(&text[at..start]);
        shown.extend_from_slice(MARK);
        at = end;
    }
    shown.extend_from_slice(&text[at..]);
    shown
}

#[track_caller]
fn check(values: &[&str], text: &str, expected: &str) {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    let whole = in_pieces(&values, [text.as_bytes()]);
    assert_eq!(String::from_utf8(whole).unwrap(), expected, "in one piece");
    let bytes = in_pieces(&values, text.as_bytes().chunks(1));
    assert_eq!(String::from_utf8(bytes).unwrap(), expected, "byte by byte");
}

#[test]
fn values_become_marks_and_all_else_stays() {
    check(&["hunter2"], "pw=hunter2;", "pw=[REDACTED];");
    check(&["hunter2"], "hunter2hunter2", "[REDACTED][REDACTED]");
    check(&["hunter2"], "hunter hunterhunter2 hunte", "hunter hunter[REDACTED] hunte");
    check(&["abc", "abcdef"], "abcdef abcdeabc", "[REDACTED] [REDACTED]de[REDACTED]");
    check(&["b", "abcd"], "abcd abce", "[REDACTED] a[REDACTED]ce");
    check(&["aa"], "xaaaax", "x[REDACTED]x");
    check(&["abc", "cde"], "abcde", "[REDACTED]");
    check(&["ab", "cd", "bc"], "abcd", "[REDACTED]");
    check(&["ab", "cd", "b012c"], "ab012cd", "[REDACTED]");
    check(&["ab", "cd", "b012c"], "ab012d", "[REDACTED]012d");
    check(&["x", "y", "z", "wv"], "xyz w wv v", "[REDACTED][REDACTED][REDACTED] w [REDACTED] v");
}

#[test]
fn only_what_begins_a_value_waits() {
    let mut redactor = Redactor::new(automaton(&[b"secret"]));
    let mut shown = Vec::new();
    for (piece, so_far) in
        [("$ se", "$ "), ("c", "$ "), ("t", "$ sect"), ("s", "$ sect"), ("ecret", "$ sect[REDACTED]")]
    {
        redactor.feed(piece.as_bytes(), &mut |bytes| shown.extend_from_slice(bytes));
        assert_eq!(String::from_utf8_lossy(&shown), so_far, "after {piece:?}");
    }
}

#[test]
fn a_value_that_could_grow_is_marked_at_once() {
    let mut redactor = Redactor::new(automaton(&[b"token", b"token-two"]));
    let mut shown = Vec::new();
    for (piece, so_far) in [("token", "[REDACTED]"), ("-tw", "[REDACTED]"), ("o", "[REDACTED]"), ("!", "[REDACTED]!")] {
        redactor.feed(piece.as_bytes(), &mut |bytes| shown.extend_from_slice(bytes));
        assert_eq!(String::from_utf8_lossy(&shown), so_far, "after {piece:?}");
    }
}

#[test]
fn a_flush_loses_nothing_and_hides_the_rest_of_a_value_that_was_not_over() {
    let mut redactor = Redactor::new(automaton(&[b"secret"]));
    let mut shown = Vec::new();
    redactor.feed(b"a sec", &mut |bytes| shown.extend_from_slice(bytes));
    redactor.flush(&mut |bytes| shown.extend_from_slice(bytes));
    assert_eq!(shown, b"a sec");
    redactor.feed(b"ret b", &mut |bytes| shown.extend_from_slice(bytes));
    assert_eq!(shown, b"a sec[REDACTED] b");
}

#[test]
fn new_values_apply_to_what_was_held() {
    let mut redactor = Redactor::new(automaton(&[b"old-value"]));
    let mut shown = Vec::new();
    redactor.feed(b"an old-", &mut |bytes| shown.extend_from_slice(bytes));
    redactor.replace_values(automaton(&[b"old-value", b"-new"]), &mut |bytes| shown.extend_from_slice(bytes));
    assert_eq!(shown, b"an ");
    redactor.feed(b"new-value", &mut |bytes| shown.extend_from_slice(bytes));
    assert_eq!(shown, b"an old[REDACTED]-value");
}

#[test]
fn a_text_that_was_cut_hides_the_value_that_it_was_cut_in() {
    let values = automaton(&[b"secret"]);
    assert_eq!(redact(&values, b"no such file: sec").as_ref(), b"no such file: sec");
    assert_eq!(redact_cut(&values, b"no such file: sec").as_ref(), b"no such file: [REDACTED]");
    assert_eq!(redact_cut(&values, b"no such file").as_ref(), b"no such file");
}

#[test]
fn nothing_to_look_for_is_no_automaton() {
    assert!(Automaton::new([]).is_none());
    assert!(Automaton::new([b"".as_slice()]).is_none());
}

fn few_letters(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'c')], lengths)
}

/// A text in pieces: where it is cut.
fn pieces<'a>(text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_values_in_any_text_in_any_cut_give_what_the_definition_says(
        values in proptest::collection::vec(few_letters(1..6), 1..6),
        text in few_letters(0..60),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let expected = by_definition(&values, &text);
        prop_assert_eq!(in_pieces(&values, pieces(&text, &cuts)), expected.clone());
        prop_assert_eq!(redact(&automaton(&values), &text).into_owned(), expected);
    }

    #[test]
    fn bytes_of_any_kind_with_many_values(
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..4), 1..40),
        picks in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..40),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let text: Vec<u8> = picks.iter().flat_map(|(pick, byte)| [values[pick % values.len()], &[*byte]].concat()).collect();
        prop_assert_eq!(in_pieces(&values, pieces(&text, &cuts)), by_definition(&values, &text));
    }

    /// What has been shown at any moment is what the definition shows of the whole, up to there: so nothing of a value, even a part.
    #[test]
    fn what_is_shown_so_far_is_never_taken_back(
        values in proptest::collection::vec(few_letters(1..6), 1..5),
        text in few_letters(0..40),
    ) {
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let whole = by_definition(&values, &text);
        let longest = values.iter().map(|value| value.len()).max().unwrap_or(0);
        let mut redactor = Redactor::new(automaton(&values));
        let mut shown = Vec::new();
        for byte in text.chunks(1) {
            redactor.feed(byte, &mut |bytes| shown.extend_from_slice(bytes));
            prop_assert!(whole.starts_with(&shown));
            prop_assert!(redactor.held.len() < longest.max(1) + 1);
        }
    }

    #[test]
    fn room_that_is_promised_is_enough(
        values in proptest::collection::vec(few_letters(1..6), 1..5),
        text in few_letters(0..200),
        room in 0_usize..400,
    ) {
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let mut redactor = Redactor::new(automaton(&values));
        let (first, rest) = text.split_at(text.len() / 2);
        redactor.feed(first, &mut |_| {});
        let room = room.max(redactor.room_for(1));
        let fed = rest.len().min(redactor.most(room));
        prop_assert!(fed > 0 || rest.is_empty());
        let mut came = 0;
        redactor.feed(&rest[..fed], &mut |bytes| came += bytes.len());
        redactor.flush(&mut |bytes| came += bytes.len());
        prop_assert!(came <= room, "{came} bytes of {room}");
    }
}
