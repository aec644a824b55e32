//! `pkg.search` and `pkg.list`.

use std::time::Duration;

use aios_tool_api::{Capability, Context, Risk, Spec, Tool, ToolError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{apt::Apt, failure, lists, state::Stage};

/// Packages that a search returns.
const MAX_HITS: usize = 50;
/// Packages that a list returns.
const MAX_LISTED: usize = 1000;
/// Longest query or filter, in characters.
const MAX_QUERY: usize = 200;

/// Arguments of `pkg.search`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchArgs {
    /// Words to look for in names and descriptions; all of them must occur.
    pub query: String,
}

/// A package that a source offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SearchHit {
    /// Name.
    pub name: String,
    /// What it is, in one line.
    pub summary: String,
    /// Whether it is installed.
    pub installed: bool,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// The packages, those with a fitting name first.
    pub packages: Vec<SearchHit>,
    /// How many there are in all.
    pub total: usize,
    /// Whether some were left out because there were too many.
    pub truncated: bool,
}

/// The words of a query, with what apt would read as patterns made harmless.
fn words(query: &str) -> Vec<String> {
    query
        .split_whitespace()
        .map(|word| {
            word.chars().fold(String::new(), |mut text, letter| {
                if !letter.is_alphanumeric() && !matches!(letter, '-' | '_') && letter.is_ascii() {
                    text.push('\\');
                }
                text.push(letter);
                text
            })
        })
        .collect()
}

/// 0 for the name itself, 1 for a name that begins so, 2 for one that has it, 3 for the rest.
fn rank(name: &str, query: &str) -> u8 {
    if name == query {
        0
    } else if name.starts_with(query) {
        1
    } else if name.contains(query) {
        2
    } else {
        3
    }
}

/// `pkg.search`
#[derive(Debug, Clone)]
pub struct Search {
    apt: Apt,
}

impl Search {
    /// The tool on the packages that `apt` describes.
    #[must_use]
    pub fn new(apt: Apt) -> Self {
        Self { apt }
    }
}

impl Tool for Search {
    type Args = SearchArgs;
    type Output = Found;

    fn spec(&self) -> Spec {
        Spec {
            name: "pkg.search",
            summary: "Search the package sources for packages by name and description.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(120),
            capability: ("pkg", "search"),
        }
    }

    fn normalise(&self, args: SearchArgs, _: &Context) -> Result<SearchArgs, ToolError> {
        let query = args.query.split_whitespace().collect::<Vec<_>>().join(" ");
        if query.is_empty() || query.chars().count() > MAX_QUERY || query.contains(char::is_control)
        {
            return Err(ToolError::invalid(format!(
                "`query` is some words, at most {MAX_QUERY} characters"
            )));
        }
        Ok(SearchArgs { query })
    }

    fn capabilities(&self, _: &SearchArgs) -> Vec<Capability> {
        vec![Capability::new("pkg", "search")]
    }

    fn execute(&self, args: &SearchArgs, context: &Context) -> Result<Found, ToolError> {
        if lists::is_empty(&self.apt) {
            lists::refresh(&self.apt, context)?;
        }
        let mut call = vec!["search".to_owned(), "--".to_owned()];
        call.extend(words(&args.query));
        let ran = self.apt.cache(&call, context)?;
        if !ran.ok {
            return Err(failure::of("cannot search the package sources", &ran));
        }
        let known = self.apt.packages(context)?;
        let mut packages: Vec<SearchHit> = ran
            .stdout
            .lines()
            .filter_map(|line| line.split_once(" - "))
            .map(|(name, summary)| SearchHit {
                name: name.to_owned(),
                summary: summary.to_owned(),
                installed: known.installed(name).is_some(),
            })
            .collect();
        let query = args.query.to_lowercase();
        packages.sort_by(|left, right| {
            (rank(&left.name, &query), &left.name).cmp(&(rank(&right.name, &query), &right.name))
        });
        let total = packages.len();
        packages.truncate(MAX_HITS);
        Ok(Found {
            truncated: total > packages.len(),
            packages,
            total,
        })
    }
}

/// Arguments of `pkg.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListArgs {
    /// Only packages whose name contains this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedPackage {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Whether it is there only because another package needs it.
    pub automatic: bool,
}

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listed {
    /// The packages, in the order of their names.
    pub packages: Vec<ListedPackage>,
    /// How many there are in all.
    pub total: usize,
    /// Whether some were left out because there were too many.
    pub truncated: bool,
    /// Packages whose installation was interrupted; the next pkg.install or pkg.remove finishes it.
    pub unfinished: Vec<String>,
}

/// `pkg.list`
#[derive(Debug, Clone)]
pub struct List {
    apt: Apt,
}

impl List {
    /// The tool on the packages that `apt` describes.
    #[must_use]
    pub fn new(apt: Apt) -> Self {
        Self { apt }
    }
}

impl Tool for List {
    type Args = ListArgs;
    type Output = Listed;

    fn spec(&self) -> Spec {
        Spec {
            name: "pkg.list",
            summary: "List the installed packages with their versions.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(60),
            capability: ("pkg", "list"),
        }
    }

    fn normalise(&self, args: ListArgs, _: &Context) -> Result<ListArgs, ToolError> {
        if args
            .filter
            .as_ref()
            .is_some_and(|filter| filter.chars().count() > MAX_QUERY)
        {
            return Err(ToolError::invalid(format!(
                "`filter` has at most {MAX_QUERY} characters"
            )));
        }
        Ok(ListArgs {
            filter: args.filter.filter(|filter| !filter.is_empty()),
        })
    }

    fn capabilities(&self, _: &ListArgs) -> Vec<Capability> {
        vec![Capability::new("pkg", "list")]
    }

    fn execute(&self, args: &ListArgs, context: &Context) -> Result<Listed, ToolError> {
        let known = self.apt.packages(context)?;
        let filter = args.filter.as_deref().unwrap_or_default().to_lowercase();
        let mut packages: Vec<ListedPackage> = known
            .0
            .iter()
            .filter(|(name, entry)| entry.stage == Stage::Installed && name.contains(&filter))
            .map(|(name, entry)| ListedPackage {
                name: name.clone(),
                version: entry.version.clone(),
                automatic: entry.auto,
            })
            .collect();
        let total = packages.len();
        packages.truncate(MAX_LISTED);
        Ok(Listed {
            truncated: total > packages.len(),
            packages,
            total,
            unfinished: known.unfinished(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_no_patterns() {
        assert_eq!(words("web  c++ .*"), ["web", r"c\+\+", r"\.\*"]);
    }

    #[test]
    fn fitting_names_come_first() {
        assert!(rank("nginx", "nginx") < rank("nginx-common", "nginx"));
        assert!(rank("libnginx-mod", "nginx") < rank("apache2", "nginx"));
    }
}
