//! What units say about each other: unknown names, units of a later phase, cycles, and the order in
//! which they stop.
//!
//! `requires`, `wants` and `after` all order; a cycle through any of them is an error, since no
//! unit of it could ever be the first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::unit::Unit;

/// What is wrong with a unit among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The unit at fault.
    pub unit: String,
    /// The key at fault: `requires`, `wants` or `after`.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// Whether the unit cannot be started at all because of it.
    pub fatal: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.unit, self.key, self.message)
    }
}

/// Every problem of a set of units, in the order of their names.
#[must_use]
pub fn check_graph(units: &BTreeMap<String, Unit>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for unit in units.values() {
        for (key, name) in unit.dependencies() {
            let Some(other) = units.get(name) else {
                let hint = aios_config::nearest(name, units.keys().map(String::as_str))
                    .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                problems.push(Problem {
                    unit: unit.name.clone(),
                    key,
                    message: format!("there is no unit `{name}`{hint}"),
                    fatal: key == "requires",
                });
                continue;
            };
            if other.phase > unit.phase {
                problems.push(Problem {
                    unit: unit.name.clone(),
                    key,
                    message: format!(
                        "`{name}` belongs to the later phase `{}`, which begins only when `{}` is over",
                        other.phase.name(),
                        unit.phase.name()
                    ),
                    fatal: key == "requires",
                });
            }
        }
    }
    problems.extend(cycles(units));
    problems
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Open,
    Closed,
}

/// Each cycle once, blamed on its first unit by name.
fn cycles(units: &BTreeMap<String, Unit>) -> Vec<Problem> {
    let mut marks: BTreeMap<&str, Mark> = BTreeMap::new();
    let mut problems = Vec::new();
    for start in units.keys() {
        // Depth first with an explicit stack: a long chain must not be able to overflow PID 1's.
        let mut path: Vec<(&str, Vec<(&'static str, &str)>)> = Vec::new();
        if marks.contains_key(start.as_str()) {
            continue;
        }
        enter(units, start, &mut marks, &mut path);
        while let Some((_, rest)) = path.last_mut() {
            let Some((key, next)) = rest.pop() else {
                if let Some((done, _)) = path.pop() {
                    marks.insert(done, Mark::Closed);
                }
                continue;
            };
            match marks.get(next) {
                Some(Mark::Closed) => {}
                Some(Mark::Open) => {
                    let from = path.iter().position(|(name, _)| *name == next).unwrap_or(0);
                    let mut names: Vec<&str> = path[from..].iter().map(|(name, _)| *name).collect();
                    let blamed = (*names.last().unwrap_or(&next)).to_owned();
                    names.push(next);
                    problems.push(Problem {
                        unit: blamed,
                        key,
                        message: format!("units wait for each other: {}", names.join(" → ")),
                        fatal: true,
                    });
                }
                None if units.contains_key(next) => enter(units, next, &mut marks, &mut path),
                None => {}
            }
        }
    }
    problems
}

fn enter<'a>(
    units: &'a BTreeMap<String, Unit>,
    name: &'a str,
    marks: &mut BTreeMap<&'a str, Mark>,
    path: &mut Vec<(&'a str, Vec<(&'static str, &'a str)>)>,
) {
    let dependencies = units
        .get(name)
        .map(|unit| unit.dependencies().collect())
        .unwrap_or_default();
    marks.insert(name, Mark::Open);
    path.push((name, dependencies));
}

/// Everything that requires a unit, directly or through others, without the unit itself.
pub(crate) fn requirers(units: &BTreeMap<String, Vec<String>>, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![name.to_owned()];
    while let Some(current) = open.pop() {
        for (other, requires) in units {
            if requires.contains(&current) && other != name && found.insert(other.clone()) {
                open.push(other.clone());
            }
        }
    }
    found
}

/// The units in an order in which each comes before everything that it depends on: the order of a
/// stop. Units on a cycle come last.
#[must_use]
pub fn stop_order(units: &BTreeMap<String, Unit>) -> Vec<String> {
    let mut left: BTreeSet<&str> = units.keys().map(String::as_str).collect();
    let mut order = Vec::with_capacity(left.len());
    loop {
        let free: Vec<&str> = left
            .iter()
            .copied()
            .filter(|name| {
                !left.iter().any(|other| {
                    units
                        .get(*other)
                        .is_some_and(|unit| unit.dependencies().any(|(_, on)| on == *name))
                })
            })
            .collect();
        if free.is_empty() {
            order.extend(left.iter().map(|name| (*name).to_owned()));
            return order;
        }
        for name in free {
            left.remove(name);
            order.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::unit::parse_unit;

    fn set(units: &[(&str, &str)]) -> BTreeMap<String, Unit> {
        units
            .iter()
            .map(|(name, more)| {
                let text = format!(
                    "description = \"d\"\nphase = \"services\"\ncommand = \"/bin/x\"\n{more}\n"
                );
                let path = format!("{name}.toml");
                (
                    (*name).to_owned(),
                    parse_unit(Path::new(&path), &text).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_missing_unit_is_named_with_the_nearest() {
        let problems = check_graph(&set(&[
            ("memory", ""),
            ("tools", "requires = [\"memroy\"]"),
        ]));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].fatal);
        assert_eq!(
            problems[0].to_string(),
            "tools: requires: there is no unit `memroy`; did you mean `memory`?"
        );
    }

    #[test]
    fn a_cycle_through_mixed_keys_is_found_once_and_spelt_out() {
        let problems = check_graph(&set(&[
            ("a", "requires = [\"b\"]"),
            ("b", "wants = [\"c\"]"),
            ("c", "after = [\"a\"]"),
            ("d", "after = [\"a\"]"),
        ]));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(
            problems[0].message,
            "units wait for each other: a → b → c → a"
        );
    }

    #[test]
    fn a_diamond_is_no_cycle() {
        let units = set(&[
            ("a", "requires = [\"b\", \"c\"]"),
            ("b", "requires = [\"d\"]"),
            ("c", "requires = [\"d\"]"),
            ("d", ""),
        ]);
        assert!(check_graph(&units).is_empty());
        assert_eq!(stop_order(&units), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_long_chain_does_not_overflow() {
        let names: Vec<(String, String)> = (0..2000)
            .map(|i| (format!("u{i:05}"), format!("after = [\"u{:05}\"]", i + 1)))
            .chain([("u02000".to_owned(), String::new())])
            .collect();
        let units = set(&names
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect::<Vec<_>>());
        assert!(check_graph(&units).is_empty());
    }

    #[test]
    fn requirers_are_transitive() {
        let map = BTreeMap::from([
            ("a".to_owned(), vec![]),
            ("b".to_owned(), vec!["a".to_owned()]),
            ("c".to_owned(), vec!["b".to_owned()]),
            ("d".to_owned(), vec![]),
        ]);
        let found: Vec<String> = requirers(&map, "a").into_iter().collect();
        assert_eq!(found, ["b", "c"]);
    }

    proptest! {
        // Edges only to higher numbers: never a cycle, and the stop order respects every edge.
        #[test]
        fn without_back_edges_there_is_no_cycle(edges in proptest::collection::vec((0usize..12, 0usize..12), 0..40)) {
            let mut after = vec![BTreeSet::new(); 12];
            for (from, to) in edges {
                if from < to {
                    after[from].insert(format!("\"u{to:02}\""));
                }
            }
            let named: Vec<(String, String)> = after.iter().enumerate().map(|(i, set)| {
                let list: Vec<String> = set.iter().cloned().collect();
                (format!("u{i:02}"), format!("after = [{}]", list.join(",")))
            }).collect();
            let units = set(&named.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>());
            prop_assert!(check_graph(&units).is_empty());
            let order = stop_order(&units);
            prop_assert_eq!(order.len(), 12);
            for unit in units.values() {
                let place = |name: &str| order.iter().position(|n| n == name).unwrap();
                for (_, on) in unit.dependencies() {
                    prop_assert!(place(&unit.name) < place(on));
                }
            }
        }
    }
}
