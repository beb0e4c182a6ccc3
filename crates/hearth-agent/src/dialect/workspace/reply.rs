//! Replies: JSON objects, built a field at a time.

use std::io::Write;

use serde::Serialize;

/// An object that is being written, from its brace on.
#[derive(Debug, Default)]
pub(super) struct Object {
    json: Vec<u8>,
}

impl Object {
    /// Adds a field.
    pub(super) fn field(mut self, name: &str, value: impl Serialize) -> Self {
        self.name(name);
        write_json(&mut self.json, &value);
        self
    }

    /// Adds a text that may hold bytes which are not UTF-8: each is written as a lone surrogate, as Python does, so that it comes back as it was.
    pub(super) fn name_field(mut self, name: &str, bytes: &[u8]) -> Self {
        self.name(name);
        write_name(&mut self.json, bytes);
        self
    }

    /// Adds what is JSON already.
    pub(super) fn raw_field(mut self, name: &str, json: &[u8]) -> Self {
        self.name(name);
        self.json.extend_from_slice(json);
        self
    }

    /// The object so far, without its end: for one that is sent in pieces.
    pub(super) fn begun(mut self, name: &str) -> Vec<u8> {
        self.name(name);
        self.json
    }

    /// The whole object.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.json.is_empty() {
            self.json.push(b'{');
        }
        self.json.push(b'}');
        self.json
    }

    /// The fields and the end of an object that was [begun](Self::begun), with its newline.
    pub(super) fn ending(self) -> Vec<u8> {
        let mut line = self.line();
        line[0] = b',';
        line
    }

    /// The whole object, as a line.
    pub(super) fn line(self) -> Vec<u8> {
        let mut line = self.finish();
        line.push(b'\n');
        line
    }

    fn name(&mut self, name: &str) {
        self.json.push(if self.json.is_empty() { b'{' } else { b',' });
        write_json(&mut self.json, &name);
        self.json.push(b':');
    }
}

/// Writes a value.
pub(super) fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("replies are plain data and a Vec takes every write");
}

/// Writes a piece of a string, without its quotes.
pub(super) fn write_piece(out: &mut Vec<u8>, piece: &str) {
    let start = out.len();
    write_json(out, &piece);
    out.pop();
    out.remove(start);
}

fn write_name(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        write_piece(out, chunk.valid());
        for byte in chunk.invalid() {
            write!(out, "\\udc{byte:02x}").expect("a Vec takes every write");
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::request::Request;
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let name = b"a\"\\\n\xff\xc3\xa9\xc3";
        let line = Object::default().name_field("path", name).field("size", 1).line();
        assert_eq!(line, b"{\"path\":\"a\\\"\\\\\\n\\udcff\xc3\xa9\\udcc3\",\"size\":1}\n");
        assert_eq!(Request::parse(&line).unwrap().bytes("path", "").unwrap(), name);
        assert_eq!(Object::default().line(), b"{}\n");
    }
}
