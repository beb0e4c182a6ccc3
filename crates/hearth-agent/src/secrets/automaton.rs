//! Finds any of a set of values in a stream, one byte at a time.
//!
//! The automaton of Aho and Corasick: a state is the longest end of what was read that begins a value. Written here because its user,
//! [`super::redact`], must know how long that end is: it is what may not be shown yet.

/// A state: a node of the tree of all values.
pub(crate) type State = u32;

/// How many bytes behind one that may begin a value are looked at one by one.
const NEAR: usize = 64;

/// Nothing that was read begins a value.
pub(crate) const ROOT: State = 0;

/// Looks for values.
#[derive(Debug)]
pub(crate) struct Automaton {
    nodes: Vec<Node>,
    /// The children of the root, by byte.
    first: Box<[State; 256]>,
    firsts: Firsts,
    /// A bit for each two bytes that begin a value.
    pairs: Box<[u64; 1024]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// The byte that leads here from the parent.
    byte: u8,
    /// The first of the children, which are a list: nearly every node has one.
    child: State,
    sibling: State,
    /// The longest proper end of this node's text that is a node too.
    fail: State,
    depth: u32,
    /// The length of the longest value that this node's text ends with; 0 for none.
    value: u32,
}

/// The bytes that values begin with, where they are so few that the processor's vectors find them.
#[derive(Debug)]
enum Firsts {
    One(u8),
    Two(u8, u8),
    Three(u8, u8, u8),
    Many,
}

impl Automaton {
    /// Builds the automaton of all values that are not empty; `None` when there are none.
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut built = Self {
            nodes: vec![Node::default()],
            first: Box::new([ROOT; 256]),
            firsts: Firsts::Many,
            pairs: Box::new([0; 1024]),
        };
        values.into_iter().filter(|value| !value.is_empty()).for_each(|value| built.insert(value));
        if built.nodes.len() == 1 {
            return None;
        }
        built.link();
        built.note_beginnings();
        built.nodes.shrink_to_fit();
        Some(built)
    }

    fn insert(&mut self, value: &[u8]) {
        let mut at = ROOT;
        for &byte in value {
            at = match self.child(at, byte) {
                ROOT => self.add(at, byte),
                child => child,
            };
        }
        self.nodes[at as usize].value = value.len() as u32;
    }

    fn add(&mut self, parent: State, byte: u8) -> State {
        let new = self.nodes.len() as State;
        let Node { child: sibling, depth, .. } = self.nodes[parent as usize];
        self.nodes.push(Node { byte, sibling, depth: depth + 1, ..Node::default() });
        self.nodes[parent as usize].child = new;
        if parent == ROOT {
            self.first[usize::from(byte)] = new;
        }
        new
    }

    /// The child by `byte`; [`ROOT`], which is nobody's child, for none.
    fn child(&self, parent: State, byte: u8) -> State {
        if parent == ROOT {
            return self.first[usize::from(byte)];
        }
        let mut child = self.nodes[parent as usize].child;
        while child != ROOT && self.nodes[child as usize].byte != byte {
            child = self.nodes[child as usize].sibling;
        }
        child
    }

    /// Fills in where to go on from a node that has no fitting child: level by level, since that is always a node of a lower level.
    fn link(&mut self) {
        let mut level: Vec<State> = self.children(ROOT).collect();
        while !level.is_empty() {
            let mut next = Vec::new();
            for parent in level {
                let children: Vec<State> = self.children(parent).collect();
                for child in children {
                    let Node { byte, value, .. } = self.nodes[child as usize];
                    let fail = self.step(self.nodes[parent as usize].fail, byte);
                    let value = value.max(self.nodes[fail as usize].value);
                    self.nodes[child as usize] = Node { fail, value, ..self.nodes[child as usize] };
                    next.push(child);
                }
            }
            level = next;
        }
    }

    fn children(&self, parent: State) -> impl Iterator<Item = State> {
        let existing = |state: State| (state != ROOT).then_some(state);
        let first = existing(self.nodes[parent as usize].child);
        std::iter::successors(first, move |&child| existing(self.nodes[child as usize].sibling))
    }

    fn note_beginnings(&mut self) {
        let firsts: Vec<u8> = (0..=u8::MAX).filter(|&byte| self.first[usize::from(byte)] != ROOT).collect();
        for &first in &firsts {
            let state = self.first[usize::from(first)];
            let whole = self.nodes[state as usize].value > 0;
            for second in 0..=u8::MAX {
                if whole || self.child(state, second) != ROOT {
                    let pair = usize::from(first) << 8 | usize::from(second);
                    self.pairs[pair / 64] |= 1 << (pair % 64);
                }
            }
        }
        self.firsts = match firsts[..] {
            [a] => Firsts::One(a),
            [a, b] => Firsts::Two(a, b),
            [a, b, c] => Firsts::Three(a, b, c),
            _ => Firsts::Many,
        };
    }

    /// The state after one more byte.
    pub(crate) fn step(&self, mut state: State, byte: u8) -> State {
        loop {
            match self.child(state, byte) {
                ROOT if state == ROOT => return ROOT,
                ROOT => state = self.nodes[state as usize].fail,
                child => return child,
            }
        }
    }

    /// How many of the bytes read last begin a value.
    pub(crate) fn depth(&self, state: State) -> usize {
        self.nodes[state as usize].depth as usize
    }

    /// The length of the longest value that ends with the byte read last.
    pub(crate) fn found(&self, state: State) -> Option<usize> {
        let length = self.nodes[state as usize].value as usize;
        (length > 0).then_some(length)
    }

    /// From [`ROOT`]: the bytes that can be passed over, because no value begins with any of them.
    pub(crate) fn skip(&self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let Some(found) = self.find_first(&bytes[at..]) else { return bytes.len() };
            at += found;
            // Where there is one there are often more, and to look for each anew would take longer than to look at every pair.
            let near = &bytes[at..bytes.len().min(at + NEAR)];
            match near.windows(2).position(|pair| self.begins(pair)) {
                Some(begins) => return at + begins,
                // The last byte has no second: it is for the automaton to look at.
                None if at + near.len() == bytes.len() => return bytes.len() - 1,
                None => at += near.len() - 1,
            }
        }
    }

    fn find_first(&self, bytes: &[u8]) -> Option<usize> {
        match self.firsts {
            Firsts::One(a) => memchr::memchr(a, bytes),
            Firsts::Two(a, b) => memchr::memchr2(a, b, bytes),
            Firsts::Three(a, b, c) => memchr::memchr3(a, b, c, bytes),
            Firsts::Many => (!bytes.is_empty()).then_some(0),
        }
    }

    fn begins(&self, pair: &[u8]) -> bool {
        let pair = usize::from(pair[0]) << 8 | usize::from(pair[1]);
        self.pairs[pair / 64] >> (pair % 64) & 1 != 0
    }
}
