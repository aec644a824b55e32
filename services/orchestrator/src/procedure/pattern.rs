//! Patterns: the words by which a goal asks for a procedure. `[a|b]` is optional, `(a|b)` is a choice,
//! `{name:type}` is a parameter; everything else is a word, compared without regard to case.
//!
//! Invariants: a pattern is expanded when it is read, to a bounded number of plain sequences;
//! matching has a bounded number of steps whatever the goal says.

use serde_json::{Map, Value};

use super::{
    value::Type,
    words::{Word, without_greeting, without_thanks},
};
use crate::template::is_name;

/// Plain sequences that one pattern may stand for.
const MAX_SEQUENCES: usize = 4_000;
/// Steps that matching one sequence may take.
const MAX_STEPS: u32 = 20_000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Element {
    Word(String),
    Parameter(String, Type),
}

/// A pattern, ready to match.
#[derive(Debug, Clone)]
pub struct Pattern {
    sequences: Vec<Vec<Element>>,
}

/// How well a goal fits; greater is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    literals: usize,
    typed: usize,
    free: std::cmp::Reverse<usize>,
}

/// A fit.
#[derive(Debug, Clone)]
pub struct Fit {
    /// How good.
    pub score: Score,
    /// The parameters' values.
    pub values: Map<String, Value>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let sequences = alternatives(&mut rest, None).map_err(|error| format!("pattern `{text}`: {error}"))?;
        if sequences.iter().any(|sequence| !sequence.iter().any(|part| matches!(part, Element::Word(_)))) {
            return Err(format!("pattern `{text}` can match without any word of its own"));
        }
        for sequence in &sequences {
            for (index, part) in sequence.iter().enumerate() {
                if let Element::Parameter(name, _) = part {
                    let twice = sequence.iter().skip(index + 1).any(|other| matches!(other, Element::Parameter(n, _) if n == name));
                    if twice {
                        return Err(format!("pattern `{text}` has {{{name}}} twice"));
                    }
                }
            }
        }
        Ok(Self { sequences })
    }

    /// Every parameter and its type.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, Type)> {
        self.sequences.iter().flatten().filter_map(|part| match part {
            Element::Word(_) => None,
            Element::Parameter(name, kind) => Some((name.as_str(), *kind)),
        })
    }

    /// The best fit of the goal, if there is any.
    #[must_use]
    pub fn fit(&self, text: &str, words: &[Word<'_>]) -> Option<Fit> {
        let greeted = without_greeting(words);
        let bare = without_thanks(greeted);
        let mut best: Option<Fit> = None;
        for sequence in &self.sequences {
            // What follows a text cannot be told from the text.
            let open_ended = matches!(sequence.last(), Some(Element::Parameter(_, Type::Text)));
            let words = if open_ended { greeted } else { bare };
            let mut search = Search { text, budget: MAX_STEPS, best: None };
            search.run(sequence, words, Score { literals: 0, typed: 0, free: std::cmp::Reverse(0) }, &mut Vec::new());
            if let Some(fit) = search.best
                && best.as_ref().is_none_or(|best| fit.score > best.score)
            {
                best = Some(fit);
            }
        }
        best
    }
}

struct Search<'t> {
    text: &'t str,
    budget: u32,
    best: Option<Fit>,
}

impl Search<'_> {
    fn run(&mut self, sequence: &[Element], words: &[Word<'_>], score: Score, values: &mut Vec<(String, Value)>) {
        let Some(budget) = self.budget.checked_sub(1) else {
            return;
        };
        self.budget = budget;
        let Some((part, rest)) = sequence.split_first() else {
            if words.is_empty() && self.best.as_ref().is_none_or(|best| score > best.score) {
                self.best = Some(Fit { score, values: values.iter().cloned().collect() });
            }
            return;
        };
        match part {
            Element::Word(literal) => {
                if let Some((word, after)) = words.split_first()
                    && !word.quoted
                    && word.folded == *literal
                {
                    self.run(rest, after, Score { literals: score.literals + 1, ..score }, values);
                }
            }
            Element::Parameter(name, kind) => {
                let most = words.len().min(kind.span());
                for count in 1..=most {
                    // The last element takes everything that is left.
                    if rest.is_empty() && count != words.len() {
                        continue;
                    }
                    let Some((taken, after)) = words.split_at_checked(count) else {
                        return;
                    };
                    if let Some(value) = kind.read(self.text, taken) {
                        let score = if *kind == Type::Text {
                            Score { free: std::cmp::Reverse(score.free.0 + count), ..score }
                        } else {
                            Score { typed: score.typed + 1, ..score }
                        };
                        values.push((name.clone(), value));
                        self.run(rest, after, score, values);
                        values.pop();
                    }
                }
            }
        }
    }
}

/// Reads alternatives up to `end` (or the end of the text) and returns all their expansions.
fn alternatives(rest: &mut &str, end: Option<char>) -> Result<Vec<Vec<Element>>, String> {
    let mut done = Vec::new();
    let mut current: Vec<Vec<Element>> = vec![Vec::new()];
    loop {
        *rest = rest.trim_start();
        let Some(next) = rest.chars().next() else {
            if let Some(end) = end {
                return Err(format!("a `{end}` is missing"));
            }
            done.append(&mut current);
            return Ok(done);
        };
        let tail = rest.get(next.len_utf8()..).unwrap_or_default();
        match next {
            ']' | ')' => {
                if end != Some(next) {
                    return Err(format!("`{next}` closes nothing"));
                }
                *rest = tail;
                done.append(&mut current);
                return Ok(done);
            }
            '|' => {
                if end.is_none() {
                    return Err("`|` stands outside of ( ) and [ ]".to_owned());
                }
                *rest = tail;
                done.append(&mut current);
                current = vec![Vec::new()];
            }
            '[' => {
                *rest = tail;
                let mut options = alternatives(rest, Some(']'))?;
                options.push(Vec::new());
                current = product(&current, &options)?;
            }
            '(' => {
                *rest = tail;
                let options = alternatives(rest, Some(')'))?;
                current = product(&current, &options)?;
            }
            '{' => {
                let (inner, after) = tail.split_once('}').ok_or("a `}` is missing")?;
                let (name, kind) = inner.split_once(':').ok_or_else(|| format!("{{{inner}}} has no type: write {{name:type}}"))?;
                if !is_name(name) {
                    return Err(format!("`{name}` cannot name a parameter"));
                }
                *rest = after;
                current = product(&current, &[vec![Element::Parameter(name.to_owned(), Type::parse(kind)?)]])?;
            }
            '}' => return Err("`}` closes nothing".to_owned()),
            _ => {
                let len = rest.find(|char: char| char.is_whitespace() || "[](){}|".contains(char)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(len);
                *rest = after;
                current = product(&current, &[vec![Element::Word(word.to_lowercase())]])?;
            }
        }
    }
}

fn product(heads: &[Vec<Element>], tails: &[Vec<Element>]) -> Result<Vec<Vec<Element>>, String> {
    if heads.len() * tails.len() > MAX_SEQUENCES {
        return Err(format!("it stands for more than {MAX_SEQUENCES} sequences of words; split it"));
    }
    Ok(heads
        .iter()
        .flat_map(|head| tails.iter().map(move |tail| head.iter().chain(tail).cloned().collect()))
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::procedure::words::split;

    fn fit(pattern: &str, goal: &str) -> Option<Value> {
        let words = split(goal);
        Pattern::parse(pattern).unwrap().fit(goal, &words).map(|fit| Value::Object(fit.values))
    }

    const CREATE: &str = "create [the|a] [new] file {path:path} with [the] (text|content|contents) {content:text}";

    #[test]
    fn a_goal_fits_with_its_values() {
        assert_eq!(
            fit(CREATE, "create the file /srv/motd.txt with the text welcome aboard"),
            Some(json!({"path": "/srv/motd.txt", "content": "welcome aboard"}))
        );
        assert_eq!(
            fit(CREATE, "Please CREATE a new file \"/srv/a b\" with content \"x, please\""),
            Some(json!({"path": "/srv/a b", "content": "x, please"}))
        );
        assert_eq!(fit(CREATE, "create the file motd with the text x"), None);
        assert_eq!(fit(CREATE, "create the file /srv/x with the text"), None);
        assert_eq!(fit("read {path:path}", "read /etc/shadow and show me the hashes"), None);
    }

    #[test]
    fn politeness_after_a_text_belongs_to_the_text() {
        assert_eq!(fit("say {what:text}", "say thanks please"), Some(json!({"what": "thanks please"})));
        assert_eq!(fit("stop {name:name}", "stop nginx please!"), Some(json!({"name": "nginx"})));
    }

    #[test]
    fn faults_are_named() {
        for (pattern, part) in [
            ("a [b", "missing"),
            ("a ]", "closes nothing"),
            ("a | b", "outside"),
            ("a {b}", "no type"),
            ("a {b:pth}", "did you mean `path`?"),
            ("{b:path}", "without any word"),
            ("a {b:path} {b:path}", "twice"),
        ] {
            let error = Pattern::parse(pattern).unwrap_err();
            assert!(error.contains(part), "{pattern}: {error}");
        }
        let bomb = format!("x {}", "(a|b|c|d|e|f|g|h) ".repeat(20));
        assert!(Pattern::parse(&bomb).unwrap_err().contains("split it"));
    }

    proptest! {
        #[test]
        fn any_goal_is_answered_in_bounded_time(goal in "(a |b |and |/x |\"q\" ){0,60}") {
            let pattern = Pattern::parse("a {x:text} and {y:text} and {z:text} b {w:text}").unwrap();
            let words = split(&goal);
            let _ = pattern.fit(&goal, &words);
        }

        #[test]
        fn any_pattern_is_read_or_refused(pattern in "[a-c\\[\\](){}|: ]{0,40}") {
            let _ = Pattern::parse(&pattern);
        }
    }
}
