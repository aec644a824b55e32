//! A directory of unit files, given as texts, made into a set of units and a list of everything that
//! is wrong with it. The same code serves PID 1 and `aios-init --check`.
//!
//! Invariant: one bad file never costs another unit; what can run, runs, and the rest is reported.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    graph::check_graph,
    unit::{Unit, line_of, parse_unit},
};

/// One unit and the file that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The unit.
    pub unit: Unit,
    /// Where it came from.
    pub path: PathBuf,
    /// Why it cannot be started, if so.
    pub unusable: Option<String>,
}

/// The units of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitSet {
    /// Those that could be read, by name.
    pub units: BTreeMap<String, Loaded>,
    /// Everything that is wrong, one line each, with file and line.
    pub problems: Vec<String>,
}

/// Reads unit files from their paths and texts.
#[must_use]
pub fn load_units<'a>(files: impl IntoIterator<Item = (&'a Path, &'a str)>) -> UnitSet {
    let mut set = UnitSet::default();
    let mut texts: BTreeMap<String, &str> = BTreeMap::new();
    for (path, text) in files {
        match parse_unit(path, text) {
            Ok(unit) => {
                texts.insert(unit.name.clone(), text);
                let loaded = Loaded {
                    path: path.to_owned(),
                    unusable: None,
                    unit,
                };
                set.units.insert(loaded.unit.name.clone(), loaded);
            }
            Err(error) => set.problems.push(error.to_string()),
        }
    }
    let units = set
        .units
        .iter()
        .map(|(name, loaded)| (name.clone(), loaded.unit.clone()))
        .collect();
    for problem in check_graph(&units) {
        let Some(loaded) = set.units.get_mut(&problem.unit) else {
            continue;
        };
        let line = texts
            .get(&problem.unit)
            .map_or(1, |text| line_of(text, problem.key));
        set.problems.push(format!(
            "{}:{line}: {}: {}",
            loaded.path.display(),
            problem.key,
            problem.message
        ));
        if problem.fatal {
            loaded
                .unusable
                .get_or_insert_with(|| format!("{}: {}", problem.key, problem.message));
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_is_listed_and_the_good_unit_stays() {
        let good = "description = \"d\"\nphase = \"services\"\ncommand = \"/bin/x\"\n";
        let missing = format!("{good}after = [\"nobody\"]\n");
        let set = load_units([
            (Path::new("/u/broken.toml"), "description = 3"),
            (Path::new("/u/good.toml"), good),
            (Path::new("/u/missing.toml"), missing.as_str()),
        ]);
        assert_eq!(set.problems.len(), 2, "{:?}", set.problems);
        assert!(
            set.problems[0].starts_with("/u/broken.toml:1:15: "),
            "{:?}",
            set.problems
        );
        assert!(
            set.problems[1].starts_with("/u/missing.toml:4: after: "),
            "{:?}",
            set.problems
        );
        assert_eq!(set.units.len(), 2);
        assert!(
            set.units["missing"].unusable.is_none(),
            "an unknown `after` is dropped, not fatal"
        );
    }

    #[test]
    fn a_unit_on_a_cycle_cannot_be_used() {
        let unit = |more: &str| {
            format!("description = \"d\"\nphase = \"services\"\ncommand = \"/bin/x\"\n{more}")
        };
        let (a, b) = (unit("requires = [\"b\"]"), unit("after = [\"a\"]"));
        let set = load_units([
            (Path::new("a.toml"), a.as_str()),
            (Path::new("b.toml"), b.as_str()),
        ]);
        let unusable = set
            .units
            .values()
            .filter(|unit| unit.unusable.is_some())
            .count();
        assert_eq!((unusable, set.problems.len()), (1, 1));
    }
}
