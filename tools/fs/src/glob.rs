//! Globs on one file name: `*` any text, `?` one character, `[a-z]` one of a class, `[!a-z]` none of
//! it, `\` takes the next character as it is.
//!
//! Matching takes time proportional to the name times the glob at worst, never exponential.

/// One sign of a glob.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sign {
    Text(char),
    One,
    Any,
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    signs: Vec<Sign>,
    ignore_case: bool,
}

impl Glob {
    /// Reads a glob; the error says what is wrong with it.
    pub(crate) fn parse(text: &str, ignore_case: bool) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        if text.contains('/') {
            return Err("it has a `/`, but it is matched against names, not paths".to_owned());
        }
        let text = fold(text, ignore_case);
        let mut letters = text.chars().peekable();
        let mut signs = Vec::new();
        while let Some(letter) = letters.next() {
            signs.push(match letter {
                '*' => Sign::Any,
                '?' => Sign::One,
                '\\' => Sign::Text(letters.next().ok_or("it ends in `\\`")?),
                '[' => {
                    let not = letters.next_if(|next| matches!(next, '!' | '^')).is_some();
                    let mut ranges = Vec::new();
                    loop {
                        let first = letters.next().ok_or("a `[` is not closed")?;
                        // A `]` in the first place stands for itself.
                        if first == ']' && !ranges.is_empty() {
                            break;
                        }
                        let mut ahead = letters.clone();
                        let range = ahead.next() == Some('-')
                            && ahead.peek().is_some_and(|last| *last != ']');
                        let last = if range {
                            letters.next();
                            letters.next().ok_or("a `[` is not closed")?
                        } else {
                            first
                        };
                        ranges.push((first, last));
                    }
                    Sign::Class { not, ranges }
                }
                letter => Sign::Text(letter),
            });
        }
        Ok(Self { signs, ignore_case })
    }

    /// Whether a name fits.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = fold(name, self.ignore_case).chars().collect();
        let (mut at_sign, mut at) = (0, 0);
        // Where to go on when what follows the last `*` does not fit: one character further.
        let mut retry: Option<(usize, usize)> = None;
        while at < name.len() || at_sign < self.signs.len() {
            let fits = match (self.signs.get(at_sign), name.get(at)) {
                (Some(Sign::Any), _) => {
                    retry = Some((at_sign, at));
                    at_sign += 1;
                    continue;
                }
                (Some(sign), Some(letter)) => sign.takes(*letter),
                _ => false,
            };
            if fits {
                at_sign += 1;
                at += 1;
                continue;
            }
            match retry {
                Some((any, from)) if from < name.len() => {
                    retry = Some((any, from + 1));
                    at_sign = any + 1;
                    at = from + 1;
                }
                _ => return false,
            }
        }
        true
    }
}

impl Sign {
    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Text(text) => *text == letter,
            Self::One | Self::Any => true,
            Self::Class { not, ranges } => {
                *not != ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&letter))
            }
        }
    }
}

/// The text with upper and lower case made the same, if that is wanted.
pub(crate) fn fold(text: &str, ignore_case: bool) -> String {
    if ignore_case {
        text.to_lowercase()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(glob: &str, name: &str) -> bool {
        Glob::parse(glob, false).unwrap().matches(name)
    }

    #[test]
    fn signs_mean_what_they_say() {
        assert!(fits("*.log", "a.log") && fits("*.log", ".log") && !fits("*.log", "a.log.1"));
        assert!(fits("*x*", "x") && fits("*x*", "axb") && !fits("*x*", "ab"));
        assert!(fits("a?c", "abc") && fits("a?c", "aüc") && !fits("a?c", "ac"));
        assert!(fits("[a-c]x", "bx") && !fits("[a-c]x", "dx") && fits("[!a-c]x", "dx"));
        assert!(fits("[]-]", "]") && fits("[]-]", "-") && fits("[a-]", "-"));
        assert!(fits("\\*", "*") && !fits("\\*", "a"));
        assert!(fits("*a*b*c", "xaxbxbxc") && !fits("*a*b*c", "xaxbxbx"));
        assert!(Glob::parse("README*", true).unwrap().matches("readme.md"));
    }

    #[test]
    fn broken_globs_are_refused() {
        for wrong in ["", "a/b", "[abc", "[", "\\", "[]"] {
            assert!(Glob::parse(wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hostile_glob_ends_soon() {
        let name = "a".repeat(255);
        assert!(!fits(&"a*".repeat(60), &format!("{}b", "b".repeat(200))));
        assert!(!fits(&format!("{}b", "*a".repeat(100)), &name));
    }

    proptest! {
        #[test]
        fn a_name_fits_itself_and_star(name in "[^/\\\\*?\\[]{1,20}") {
            prop_assert!(fits(&name, &name));
            prop_assert!(fits("*", &name));
            let (before, after) = (format!("*{name}"), format!("{name}*"));
            prop_assert!(fits(&before, &name) && fits(&after, &name));
        }

        #[test]
        fn nothing_panics(glob in "\\PC{0,12}", name in "\\PC{0,12}", ignore_case: bool) {
            if let Ok(glob) = Glob::parse(&glob, ignore_case) {
                glob.matches(&name);
            }
        }
    }
}
