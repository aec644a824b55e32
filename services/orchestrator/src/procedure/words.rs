//! A goal's text as words that know where they stand, so that what is taken out of it is taken
//! verbatim. Quoted text is one word; politeness around the goal is not part of it.

/// One word, or one quoted text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word<'a> {
    /// Offset of its first byte in the text.
    pub start: usize,
    /// Offset after its last byte.
    pub end: usize,
    /// Without punctuation around it; of a quoted text the inside, verbatim.
    pub core: &'a str,
    /// Whether it was quoted.
    pub quoted: bool,
    /// In lower case, for comparison; empty when quoted.
    pub folded: String,
    /// Whether punctuation that separates (`,`, `;`) follows it.
    pub separated: bool,
}

const CLOSING: [(char, char); 6] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('“', '”'),
    ('‘', '’'),
    ('«', '»'),
];
const TRAILING: &[char] = &['.', ',', '!', '?', ';', ':', ')'];

const BEFORE: &[&[&str]] = &[
    &["hi"],
    &["hello"],
    &["hey"],
    &["there"],
    &["please"],
    &["kindly"],
    &["just"],
    &["quickly"],
    &["ok"],
    &["so"],
    &["could", "you"],
    &["can", "you"],
    &["would", "you"],
    &["will", "you"],
    &["i", "want", "you", "to"],
    &["i", "want", "to"],
    &["i", "need", "you", "to"],
    &["i", "need", "to"],
    &["i", "would", "like", "you", "to"],
    &["i'd", "like", "you", "to"],
    &["i'd", "like", "to"],
    &["let's"],
    &["go", "ahead", "and"],
    &["have", "a", "look", "and"],
    &["have", "a", "quick", "look", "and"],
    &["take", "a", "look", "and"],
    &["take", "a", "quick", "look", "and"],
    &["quick", "question"],
];
const AFTER: &[&[&str]] = &[
    &["please"],
    &["thanks"],
    &["thank", "you"],
    &["thanks", "a", "lot"],
    &["for", "me"],
    &["now"],
    &["right", "now"],
    &["at", "the", "moment"],
    &["currently"],
    &["asap"],
    &["cheers"],
];

/// The quotation mark that closes this one.
#[must_use]
pub fn closing(open: char) -> Option<char> {
    CLOSING
        .iter()
        .find(|(mark, _)| *mark == open)
        .map(|(_, close)| *close)
}

/// Splits a text into words.
#[must_use]
pub fn split(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..) {
        let trimmed = rest.trim_start();
        let start = at + (rest.len() - trimmed.len());
        let Some(first) = trimmed.chars().next() else {
            break;
        };
        if let Some((inner, len)) = quoted(trimmed, first) {
            let tail = trimmed.get(len..).unwrap_or_default();
            let punctuation: usize = tail
                .chars()
                .take_while(|char| TRAILING.contains(char))
                .map(char::len_utf8)
                .sum();
            words.push(Word {
                start,
                end: start + len,
                core: inner,
                quoted: true,
                folded: String::new(),
                separated: tail
                    .get(..punctuation)
                    .is_some_and(|marks| marks.contains([',', ';'])),
            });
            at = start + len + punctuation;
            continue;
        }
        let len = trimmed.find(char::is_whitespace).unwrap_or(trimmed.len());
        let raw = trimmed.get(..len).unwrap_or_default();
        let core = raw.trim_end_matches(TRAILING).trim_start_matches('(');
        let tail = raw
            .get(raw.trim_end_matches(TRAILING).len()..)
            .unwrap_or_default();
        if core.is_empty() {
            // Punctuation on its own, such as a dash or a lone question mark, separates words.
            if let Some(last) = words.last_mut() {
                last.separated |= tail.contains([',', ';']);
            }
        } else {
            words.push(Word {
                start,
                end: start + len,
                core,
                quoted: false,
                folded: core.to_lowercase().replace('’', "'"),
                separated: tail.contains([',', ';']),
            });
        }
        at = start + len;
    }
    words
}

/// The inside of a quotation at the start of the text and its length with both marks. It ends at
/// the first closing mark that is followed by white space, punctuation or the end.
fn quoted(text: &str, open: char) -> Option<(&str, usize)> {
    let close = closing(open)?;
    let from = open.len_utf8();
    let inside = text.get(from..)?;
    for (index, _) in inside.match_indices(close) {
        let after = inside.get(index + close.len_utf8()..)?;
        let ends = after
            .trim_start_matches(TRAILING)
            .chars()
            .next()
            .is_none_or(char::is_whitespace);
        if ends && index > 0 {
            return Some((inside.get(..index)?, from + index + close.len_utf8()));
        }
    }
    None
}

/// The words without politeness before them.
#[must_use]
pub fn without_greeting<'a, 'b>(mut words: &'b [Word<'a>]) -> &'b [Word<'a>] {
    while let Some(len) = longest(BEFORE, |phrase| {
        words.len() > phrase.len()
            && phrase
                .iter()
                .zip(words)
                .all(|(part, word)| word.folded == *part)
    }) {
        words = words.get(len..).unwrap_or_default();
    }
    words
}

/// The words without politeness after them.
#[must_use]
pub fn without_thanks<'a, 'b>(mut words: &'b [Word<'a>]) -> &'b [Word<'a>] {
    while let Some(len) = longest(AFTER, |phrase| {
        words.len() > phrase.len()
            && phrase
                .iter()
                .rev()
                .zip(words.iter().rev())
                .all(|(part, word)| word.folded == *part)
    }) {
        words = words.get(..words.len() - len).unwrap_or_default();
    }
    words
}

fn longest(phrases: &[&[&str]], fits: impl Fn(&&&[&str]) -> bool) -> Option<usize> {
    phrases.iter().filter(fits).map(|phrase| phrase.len()).max()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cores(text: &str) -> Vec<&str> {
        split(text).into_iter().map(|word| word.core).collect()
    }

    #[test]
    fn quoted_text_is_one_word_and_verbatim() {
        assert_eq!(
            cores("Write \"a, 'b'  c\" to /x, mode 0600."),
            ["Write", "a, 'b'  c", "to", "/x", "mode", "0600"]
        );
        assert_eq!(cores("say '{\"a\":\"b\"}'!"), ["say", "{\"a\":\"b\"}"]);
        assert_eq!(cores("what's \"open"), ["what's", "\"open"]);
    }

    #[test]
    fn politeness_is_not_part_of_the_goal() {
        let words = split("hi there, could you please list /srv for me, thanks!");
        let words = without_thanks(without_greeting(&words));
        let cores: Vec<&str> = words.iter().map(|word| word.core).collect();
        assert_eq!(cores, ["list", "/srv"]);
        let only = split("please");
        assert_eq!(without_greeting(&only).len(), 1);
    }

    proptest! {
        #[test]
        fn offsets_are_in_order_and_within(text in "\\PC{0,80}") {
            let mut last = 0;
            for word in split(&text) {
                prop_assert!(word.start >= last && word.end > word.start && word.end <= text.len());
                prop_assert!(text.get(word.start..word.end).unwrap().contains(word.core));
                last = word.end;
            }
        }
    }
}
