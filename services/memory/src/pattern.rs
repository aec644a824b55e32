//! When two goals have the same words: case, spacing and final punctuation aside.

/// The form under which a goal's text is looked up.
#[must_use]
pub fn normalise(goal: &str) -> String {
    let words: Vec<String> = goal.split_whitespace().map(str::to_lowercase).collect();
    words
        .join(" ")
        .trim_end_matches(['.', '!', '?', ' '])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_spacing_and_final_punctuation_do_not_matter() {
        assert_eq!(
            normalise("  How full  are the\tdisks ? "),
            "how full are the disks"
        );
        assert_eq!(
            normalise("how full are the disks"),
            "how full are the disks"
        );
        assert_ne!(normalise("stop nginx"), normalise("start nginx"));
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(goal in ".{0,60}") {
            let once = normalise(&goal);
            prop_assert_eq!(normalise(&once), once);
        }
    }
}
