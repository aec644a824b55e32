//! Goals that ask for several things: where a text may be cut into clauses. Whether it is cut there
//! is decided by the procedures: only when every clause fits one by itself.
//!
//! Invariants: quoted text is never cut; a text whose quotation marks cannot be paired is not cut at
//! all; what is between two cuts is the goal's own text, verbatim.

use super::words::{Word, split};

/// Places where one text may be cut at most; with more it is left whole.
const MAX_CUTS: usize = 9;
/// Words that join clauses.
const JOINTS: &[&str] = &["and", "then", "also", "afterwards", "finally", "&"];
/// Marks that may end a clause.
const ENDS: &[char] = &[',', ';', '.', '!', '?', ':'];

/// A piece of a goal between two possible cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    start: usize,
    end: usize,
}

/// The pieces of a goal, in order; fewer than two when it cannot be cut.
#[must_use]
pub fn pieces(text: &str) -> Vec<Piece> {
    let words = split(text);
    if words.iter().any(|word| stray_quote(text, word)) {
        return Vec::new();
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut open: Option<Piece> = None;
    let mut closed = false;
    for (index, word) in words.iter().enumerate() {
        let joint = !word.quoted && JOINTS.contains(&word.folded.as_str());
        // A joint before anything else belongs to nothing and stays with what follows.
        if joint && (open.is_some() || closed) {
            pieces.extend(open.take());
            closed = true;
            continue;
        }
        let piece = match open {
            Some(piece) => Piece {
                end: word.end,
                ..piece
            },
            None => Piece {
                start: word.start,
                end: word.end,
            },
        };
        open = Some(piece);
        closed = false;
        let next = words.get(index + 1).map_or(text.len(), |next| next.start);
        let marks = text
            .get(word.start + inside(text, word)..next)
            .unwrap_or_default();
        if marks.contains(ENDS) || marks.contains('\n') {
            pieces.extend(open.take());
            closed = true;
        }
    }
    pieces.extend(open);
    if pieces.len() > MAX_CUTS + 1 {
        pieces.clear();
    }
    pieces
}

/// The text from the first piece to the last, without the marks that end it.
#[must_use]
pub fn clause<'t>(text: &'t str, pieces: &[Piece]) -> &'t str {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
        return "";
    };
    text.get(first.start..last.end)
        .unwrap_or_default()
        .trim_end_matches([',', ';'])
}

/// Bytes of a word up to the marks that follow it.
fn inside(text: &str, word: &Word<'_>) -> usize {
    let raw = text.get(word.start..word.end).unwrap_or_default();
    if word.quoted {
        raw.len()
    } else {
        raw.find(word.core).unwrap_or(0) + word.core.len()
    }
}

/// Whether an unquoted word has a quotation mark, so that it is not known what is quoted. The
/// apostrophe within a word is none.
fn stray_quote(text: &str, word: &Word<'_>) -> bool {
    let raw = text.get(word.start..word.end).unwrap_or_default();
    !word.quoted
        && raw.char_indices().any(|(at, char)| match char {
            '"' | '`' | '“' | '”' | '«' | '»' | '‘' => true,
            '\'' | '’' => {
                let letter = |char: Option<char>| char.is_some_and(char::is_alphanumeric);
                let before = raw.get(..at).unwrap_or_default().chars().next_back();
                let after = raw.get(at + char.len_utf8()..).unwrap_or_default();
                !letter(before) || !letter(after.chars().next())
            }
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        pieces(text)
            .iter()
            .map(|piece| clause(text, std::slice::from_ref(piece)))
            .collect()
    }

    #[test]
    fn a_goal_is_cut_at_joints_and_marks() {
        for text in [
            "stop nginx, then list /srv",
            "stop nginx then list /srv",
            "stop nginx; list /srv",
            "stop nginx and then list /srv",
            "stop nginx, and list /srv",
            "stop nginx and list /srv",
            "stop nginx\nlist /srv",
        ] {
            assert_eq!(cut(text), ["stop nginx", "list /srv"], "{text}");
        }
        assert_eq!(
            cut("is nginx up? what's in /etc/hosts?"),
            ["is nginx up?", "what's in /etc/hosts?"]
        );
        assert_eq!(cut("then stop nginx"), ["then stop nginx"]);
    }

    #[test]
    fn quoted_text_is_never_cut() {
        assert_eq!(
            cut("write \"a; then b, and c\" to /srv/x; list /srv"),
            ["write \"a; then b, and c\" to /srv/x", "list /srv"]
        );
        for open in [
            "write \"a; then b to /srv/x",
            "write --text=\"a; b\" to /x",
            "say it's 'a; b",
            "echo `rm /x; rm /y",
        ] {
            assert_eq!(cut(open), Vec::<&str>::new(), "{open}");
        }
    }

    #[test]
    fn paths_and_numbers_keep_their_marks_inside() {
        assert_eq!(
            cut("list /srv/a.b and ping 10.0.0.1:80"),
            ["list /srv/a.b", "ping 10.0.0.1:80"]
        );
    }

    proptest! {
        #[test]
        fn pieces_are_in_order_and_within_the_text(text in "(and|then|stop|[a-z;,.'\"\\n ]){0,30}") {
            let mut last = 0;
            for piece in pieces(&text) {
                prop_assert!(piece.start >= last && piece.end > piece.start && piece.end <= text.len());
                prop_assert!(text.is_char_boundary(piece.start) && text.is_char_boundary(piece.end));
                last = piece.end;
            }
        }

        #[test]
        fn what_is_in_quotation_marks_stays_in_one_clause(inner in "[a-z;,. ]{1,20}and[a-z ]{0,5}") {
            let text = format!("say \"{inner}\"; list /srv");
            let clauses = cut(&text);
            prop_assert!(clauses.is_empty() || clauses[0] == format!("say \"{inner}\""), "{clauses:?}");
        }
    }
}
