//! From the bytes of tokens to text that may be shown: only whole characters leave, and nothing that
//! could still become a stop text.

/// Collects bytes and gives out text.
#[derive(Debug)]
pub struct TextStream {
    stops: Vec<String>,
    /// Bytes that are no whole character yet.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop text.
    held: String,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends before the first of these texts. Empty ones are ignored.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops
                .iter()
                .filter(|stop| !stop.is_empty())
                .cloned()
                .collect(),
            bytes: Vec::new(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Whether a stop text came. Nothing is given out after it.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether the text stays whole characters with these bytes next. llama.cpp's grammars take any
    /// bytes of the right form for a character, overlong ones too, which no reader of JSON does.
    #[must_use]
    pub fn keeps_whole(&self, bytes: &[u8]) -> bool {
        let joined = [&self.bytes, bytes].concat();
        match std::str::from_utf8(&joined) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none(),
        }
    }

    /// Adds the bytes of a token; what comes back may be shown.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.bytes.extend_from_slice(bytes);
        let mut text = String::new();
        let mut complete = self.bytes.len();
        let mut offset = 0;
        for chunk in self.bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            offset += chunk.valid().len();
            let invalid = chunk.invalid();
            if !invalid.is_empty() {
                if offset + invalid.len() == self.bytes.len() && may_continue(invalid) {
                    complete = offset;
                } else {
                    text.push(char::REPLACEMENT_CHARACTER);
                }
                offset += invalid.len();
            }
        }
        self.bytes.drain(..complete);
        self.release(&text)
    }

    /// Ends the stream: what was held back, with a mark for a character that never got whole.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let mut rest = std::mem::take(&mut self.held);
        if !self.bytes.is_empty() {
            rest.push(char::REPLACEMENT_CHARACTER);
            self.bytes.clear();
        }
        rest
    }

    fn release(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = first {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self.possible_stop();
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Bytes at the end of the held text with which a stop text may begin.
    fn possible_stop(&self) -> usize {
        self.held
            .char_indices()
            .map(|(at, _)| &self.held[at..])
            .find(|tail| self.stops.iter().any(|stop| stop.starts_with(tail)))
            .map_or(0, str::len)
    }
}

/// Whether more bytes can make these a character.
fn may_continue(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut stream = TextStream::new(&stops);
        let mut shown: Vec<String> = pieces.iter().map(|piece| stream.push(piece)).collect();
        shown.push(stream.finish());
        (shown, stream.stopped())
    }

    #[test]
    fn a_character_in_parts_is_shown_when_it_is_whole() {
        let (shown, _) = run(&[], &[b"a\xe2", b"\x82", b"\xac!"]);
        assert_eq!(shown, ["a", "", "€!", ""]);
    }

    #[test]
    fn broken_bytes_become_marks() {
        let (shown, _) = run(&[], &[b"\xff", b"x\xe2", b"y", b"\xf0\x9f"]);
        assert_eq!(shown, ["\u{fffd}", "x", "\u{fffd}y", "", "\u{fffd}"]);
    }

    #[test]
    fn a_stop_text_over_several_tokens_is_cut_off() {
        let (shown, stopped) = run(&["END"], &[b"one E", b"N", b"D two"]);
        assert_eq!(shown.concat(), "one ");
        assert!(stopped);
        let (shown, stopped) = run(&["END"], &[b"E", b"N", b"E", b"N"]);
        assert_eq!(shown.concat(), "ENEN");
        assert!(!stopped);
    }

    #[test]
    fn bytes_that_break_a_character_are_known_before_they_are_added() {
        let mut stream = TextStream::new(&[]);
        stream.push(b"a\xe2\x82");
        assert!(stream.keeps_whole(b"\xac and more"));
        assert!(!stream.keeps_whole(b"b"));
        assert!(!stream.keeps_whole(b"\xac\xff"));
        stream.push(b"\xac");
        assert!(stream.keeps_whole(b"\xf0\x9f"));
        // Overlong, and half of a surrogate pair.
        assert!(!stream.keeps_whole(b"\xc0\x80"));
        assert!(!stream.keeps_whole(b"\xed\xa0"));
    }

    #[test]
    fn the_first_stop_text_wins() {
        let (shown, _) = run(&["b", "ab"], &[b"xab"]);
        assert_eq!(shown.concat(), "x");
    }

    proptest! {
        #[test]
        fn cutting_into_tokens_changes_nothing(text in ".{0,30}", stops in proptest::collection::vec("[ab€]{1,3}", 0..3), cut in 1_usize..6) {
            let whole = text.as_bytes();
            let mut stream = TextStream::new(&stops);
            let mut shown = String::new();
            for piece in whole.chunks(cut) {
                shown += &stream.push(piece);
            }
            shown += &stream.finish();
            let end = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            // A stop text is found as soon as it is whole, which is the earliest end, not the
            // earliest start; both are the same unless stop texts overlap.
            if stops.len() < 2 {
                prop_assert_eq!(&shown, &text[..end.unwrap_or(text.len())]);
            } else {
                prop_assert!(text.starts_with(&shown));
                prop_assert!(!stops.iter().any(|stop| shown.contains(stop.as_str())));
            }
        }

        #[test]
        fn any_bytes_are_shown_as_the_standard_library_would(bytes in proptest::collection::vec(any::<u8>(), 0..40), cut in 1_usize..5) {
            let mut stream = TextStream::new(&[]);
            let mut shown = String::new();
            for piece in bytes.chunks(cut) {
                shown += &stream.push(piece);
            }
            shown += &stream.finish();
            prop_assert_eq!(shown, String::from_utf8_lossy(&bytes));
        }
    }
}
