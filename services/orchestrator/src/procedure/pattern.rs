//! Patterns: the words by which a goal asks for a procedure. `[a|b]` is optional, `(a|b)` is a choice,
//! `{name:type}` is a parameter, `{name:type+}` one or several, listed with commas
//! or `and`; everything else is a word, compared without regard to case.
//!
//! Invariants: every pattern has a word of its own and binds no parameter twice; matching has a
//! bounded number of steps whatever the goal says.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    value::Type,
    words::{Word, without_greeting, without_thanks},
};
use crate::template::is_name;

/// Steps that matching one pattern may take.
const MAX_STEPS: u32 = 5_000;
/// Values that one list may have.
const MAX_LISTED: usize = 8;
/// Brackets within brackets.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Word(String),
    Parameter(String, Type, Count),
    Choice(Vec<Vec<Node>>),
}

/// How many values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    One,
    /// Several become an array; one stays what it is.
    Several,
}

/// A pattern, ready to match.
#[derive(Debug, Clone)]
pub struct Pattern {
    nodes: Vec<Node>,
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
    /// Whether it ends in text without quotation marks, whose end nobody can be sure of.
    pub open_text: bool,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |error: String| format!("pattern `{text}`: {error}");
        let mut rest = text;
        let mut options = alternatives(&mut rest, None, 0).map_err(wrong)?;
        let nodes = options.pop().unwrap_or_default();
        names(&nodes).map_err(wrong)?;
        if fewest_words(&nodes) == 0 {
            return Err(wrong("it can match without any word of its own".to_owned()));
        }
        Ok(Self { nodes })
    }

    /// Every parameter and its type.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&str, Type)> {
        let mut found = Vec::new();
        collect(&self.nodes, &mut found);
        found
    }

    /// Whether a goal that fits may begin with this word, in lower case.
    #[must_use]
    pub fn begins_with(&self, word: &str) -> bool {
        begins(&self.nodes, word)
    }

    /// The best fit of the goal, if there is any.
    #[must_use]
    pub fn fit(&self, text: &str, words: &[Word<'_>]) -> Option<Fit> {
        let greeted = without_greeting(words);
        let bare = without_thanks(greeted);
        let start = Place {
            score: Score {
                literals: 0,
                typed: 0,
                free: std::cmp::Reverse(0),
            },
            after_text: false,
        };
        let mut best: Option<Fit> = None;
        // Thanks after a text cannot be told from the text, so they belong to it.
        for (words, ends_in_text) in [(greeted, true), (bare, false)] {
            let mut search = Search {
                text,
                last: words.last(),
                ends_in_text,
                budget: MAX_STEPS,
                best: None,
                values: Vec::new(),
            };
            search.run(&self.nodes, None, words, start);
            if let Some(fit) = search.best
                && best.as_ref().is_none_or(|best| fit.score > best.score)
            {
                best = Some(fit);
            }
        }
        best
    }
}

/// What follows once the nodes at hand are matched.
struct Then<'p> {
    nodes: &'p [Node],
    next: Option<&'p Then<'p>>,
}

#[derive(Clone, Copy)]
struct Place {
    score: Score,
    after_text: bool,
}

struct Search<'t> {
    text: &'t str,
    last: Option<&'t Word<'t>>,
    ends_in_text: bool,
    budget: u32,
    best: Option<Fit>,
    values: Vec<(String, Value)>,
}

impl Search<'_> {
    fn run(&mut self, nodes: &[Node], next: Option<&Then<'_>>, words: &[Word<'_>], place: Place) {
        let Some(budget) = self.budget.checked_sub(1) else {
            return;
        };
        self.budget = budget;
        let Some((node, rest)) = nodes.split_first() else {
            match next {
                Some(then) => self.run(then.nodes, then.next, words, place),
                None => self.accept(words, place),
            }
            return;
        };
        match node {
            Node::Word(literal) => {
                if let Some((word, after)) = words.split_first()
                    && !word.quoted
                    && word.folded == *literal
                {
                    let score = Score {
                        literals: place.score.literals + 1,
                        ..place.score
                    };
                    self.run(
                        rest,
                        next,
                        after,
                        Place {
                            score,
                            after_text: false,
                        },
                    );
                }
            }
            Node::Choice(options) => {
                let then = Then { nodes: rest, next };
                for option in options {
                    self.run(option, Some(&then), words, place);
                }
            }
            Node::Parameter(name, kind, many) => {
                let several = *many == Count::Several;
                let most = if several {
                    words.len()
                } else {
                    words.len().min(kind.span())
                };
                // Nothing else can follow: the parameter takes everything that is left.
                let least = if rest.is_empty() && next.is_none() {
                    words.len().max(1)
                } else {
                    1
                };
                for count in least..=most {
                    let Some((taken, after)) = words.split_at_checked(count) else {
                        return;
                    };
                    let value = if several && count > 1 {
                        list(*kind, self.text, taken)
                    } else {
                        kind.read(self.text, taken)
                    };
                    let Some(value) = value else {
                        continue;
                    };
                    let after_text = *kind == Type::Text;
                    let score = if after_text {
                        Score {
                            free: std::cmp::Reverse(place.score.free.0 + count),
                            ..place.score
                        }
                    } else {
                        Score {
                            typed: place.score.typed + 1,
                            ..place.score
                        }
                    };
                    self.values.push((name.clone(), value));
                    self.run(rest, next, after, Place { score, after_text });
                    self.values.pop();
                }
            }
        }
    }

    fn accept(&mut self, words: &[Word<'_>], place: Place) {
        let better = self
            .best
            .as_ref()
            .is_none_or(|best| place.score > best.score);
        if words.is_empty() && place.after_text == self.ends_in_text && better {
            self.best = Some(Fit {
                score: place.score,
                open_text: place.after_text && self.last.is_some_and(|last| !last.quoted),
                values: self.values.iter().cloned().collect(),
            });
        }
    }
}

/// Several values: `a, b and c` or `a b and c`. The last one is told by a comma or an `and` before it,
/// so that a stray word never becomes a value.
fn list(kind: Type, text: &str, words: &[Word<'_>]) -> Option<Value> {
    let joint = |word: &Word<'_>| !word.quoted && word.folded == "and";
    let (last, front) = words.split_last()?;
    let named = match front.split_last()? {
        (and, front) if joint(and) => front,
        (before, _) if before.separated => front,
        _ => return None,
    };
    let mut values: Vec<Value> = Vec::new();
    for word in named.iter().chain(std::iter::once(last)) {
        let value = kind.read(text, std::slice::from_ref(word))?;
        if joint(word) || values.contains(&value) || values.len() == MAX_LISTED {
            return None;
        }
        values.push(value);
    }
    (values.len() > 1).then_some(Value::Array(values))
}

fn collect<'n>(nodes: &'n [Node], found: &mut Vec<(&'n str, Type)>) {
    for node in nodes {
        match node {
            Node::Word(_) => {}
            Node::Parameter(name, kind, _) => found.push((name, *kind)),
            Node::Choice(options) => options.iter().for_each(|option| collect(option, found)),
        }
    }
}

fn begins(nodes: &[Node], word: &str) -> bool {
    for node in nodes {
        let (fits, skipped) = match node {
            Node::Word(literal) => (literal == word, false),
            Node::Parameter(..) => (false, false),
            Node::Choice(options) => (
                options.iter().any(|option| begins(option, word)),
                options.iter().any(Vec::is_empty),
            ),
        };
        if fits || !skipped {
            return fits;
        }
    }
    false
}

fn fewest_words(nodes: &[Node]) -> usize {
    nodes
        .iter()
        .map(|node| match node {
            Node::Word(_) => 1,
            Node::Parameter(..) => 0,
            Node::Choice(options) => options
                .iter()
                .map(|option| fewest_words(option))
                .min()
                .unwrap_or(0),
        })
        .sum()
}

/// The names that a sequence may bind; one that it could bind twice is an error.
fn names(nodes: &[Node]) -> Result<BTreeSet<&str>, String> {
    let mut all = BTreeSet::new();
    for node in nodes {
        let own = match node {
            Node::Word(_) => BTreeSet::new(),
            Node::Parameter(name, ..) => BTreeSet::from([name.as_str()]),
            Node::Choice(options) => {
                let mut own = BTreeSet::new();
                for option in options {
                    own.extend(names(option)?);
                }
                own
            }
        };
        if let Some(twice) = all.intersection(&own).next() {
            return Err(format!("it has {{{twice}}} twice"));
        }
        all.extend(own);
    }
    Ok(all)
}

/// Reads alternatives up to `end`, or to the end of the text.
fn alternatives(
    rest: &mut &str,
    end: Option<char>,
    depth: usize,
) -> Result<Vec<Vec<Node>>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} brackets within each other"));
    }
    let mut done = Vec::new();
    let mut current = Vec::new();
    loop {
        *rest = rest.trim_start();
        let Some(next) = rest.chars().next() else {
            if let Some(end) = end {
                return Err(format!("a `{end}` is missing"));
            }
            done.push(current);
            return Ok(done);
        };
        let tail = rest.get(next.len_utf8()..).unwrap_or_default();
        match next {
            ']' | ')' => {
                if end != Some(next) {
                    return Err(format!("`{next}` closes nothing"));
                }
                *rest = tail;
                done.push(current);
                return Ok(done);
            }
            '|' => {
                if end.is_none() {
                    return Err("`|` stands outside of ( ) and [ ]".to_owned());
                }
                *rest = tail;
                done.push(std::mem::take(&mut current));
            }
            '[' => {
                *rest = tail;
                let mut options = alternatives(rest, Some(']'), depth + 1)?;
                options.push(Vec::new());
                current.push(Node::Choice(options));
            }
            '(' => {
                *rest = tail;
                current.push(Node::Choice(alternatives(rest, Some(')'), depth + 1)?));
            }
            '{' => {
                let (inner, after) = tail.split_once('}').ok_or("a `}` is missing")?;
                let (name, kind) = inner
                    .split_once(':')
                    .ok_or_else(|| format!("{{{inner}}} has no type: write {{name:type}}"))?;
                if !is_name(name) {
                    return Err(format!("`{name}` cannot name a parameter"));
                }
                *rest = after;
                let (kind, count) = match kind.strip_suffix('+') {
                    None => (Type::parse(kind)?, Count::One),
                    Some(kind) => (Type::parse(kind)?, Count::Several),
                };
                if count == Count::Several && (kind.span() != 1 || kind == Type::Key) {
                    return Err(format!(
                        "{{{inner}}} cannot be listed: its type is not one word"
                    ));
                }
                current.push(Node::Parameter(name.to_owned(), kind, count));
            }
            '}' => return Err("`}` closes nothing".to_owned()),
            _ => {
                let ends = |char: char| char.is_whitespace() || "[](){}|".contains(char);
                let (word, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
                *rest = after;
                current.push(Node::Word(word.to_lowercase()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::procedure::words::split;

    fn fit(pattern: &str, goal: &str) -> Option<Value> {
        let words = split(goal);
        Pattern::parse(pattern)
            .unwrap()
            .fit(goal, &words)
            .map(|fit| Value::Object(fit.values))
    }

    const CREATE: &str =
        "create [the|a] [new] file {path:path} with [the] (text|content|contents) {content:text}";

    #[test]
    fn a_goal_fits_with_its_values() {
        assert_eq!(
            fit(
                CREATE,
                "create the file /srv/motd.txt with the text welcome aboard"
            ),
            Some(json!({"path": "/srv/motd.txt", "content": "welcome aboard"}))
        );
        assert_eq!(
            fit(
                CREATE,
                "Please CREATE a new file \"/srv/a b\" with content \"x, please\""
            ),
            Some(json!({"path": "/srv/a b", "content": "x, please"}))
        );
        assert_eq!(fit(CREATE, "create the file motd with the text x"), None);
        assert_eq!(fit(CREATE, "create the file /srv/x with the text"), None);
        assert_eq!(
            fit(
                "read {path:path}",
                "read /etc/shadow and show me the hashes"
            ),
            None
        );
    }

    #[test]
    fn politeness_after_a_text_belongs_to_the_text() {
        assert_eq!(
            fit("say {what:text}", "say thanks please"),
            Some(json!({"what": "thanks please"}))
        );
        assert_eq!(
            fit("stop {name:name}", "stop nginx please!"),
            Some(json!({"name": "nginx"}))
        );
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
        let deep = format!("x {}a{}", "[".repeat(20), "]".repeat(20));
        assert!(
            Pattern::parse(&deep)
                .unwrap_err()
                .contains("within each other")
        );
    }

    #[test]
    fn choices_and_options_nest() {
        let pattern =
            "install {s:name} and (make sure|check) [that] it answers [on port {port:port}]";
        assert_eq!(
            fit(pattern, "install nginx and make sure it answers"),
            Some(json!({"s": "nginx"}))
        );
        assert_eq!(
            fit(
                pattern,
                "install nginx and check that it answers on port 80."
            ),
            Some(json!({"s": "nginx", "port": 80}))
        );
        assert_eq!(
            fit(pattern, "install nginx and make sure it answers on port"),
            None
        );
    }

    #[test]
    fn several_values_are_a_list() {
        let pattern = "install {p:package+}";
        for (goal, packages) in [
            ("install tmux", json!("tmux")),
            (
                "install tmux htop and iotop",
                json!(["tmux", "htop", "iotop"]),
            ),
            (
                "install tmux, htop and iotop.",
                json!(["tmux", "htop", "iotop"]),
            ),
            (
                "install tmux, htop, and iotop",
                json!(["tmux", "htop", "iotop"]),
            ),
            ("install tmux, htop please", json!(["tmux", "htop"])),
        ] {
            assert_eq!(fit(pattern, goal), Some(json!({ "p": packages })), "{goal}");
        }
        for goal in [
            "install nginx today",
            "install nginx and start it",
            "install nginx and start redis",
            "install nginx and nginx",
            "install and tmux",
            "install tmux and",
        ] {
            assert_eq!(fit(pattern, goal), None, "{goal}");
        }
        assert!(
            Pattern::parse("say {t:text+}")
                .unwrap_err()
                .contains("cannot be listed")
        );
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
