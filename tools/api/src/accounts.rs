//! Names of users and groups, read from the text of `passwd` and `group`. There is no name service:
//! an account that is not in these files has only its number.

use std::collections::BTreeMap;

/// Users and groups by number and by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Accounts {
    /// Reads the two files' texts. Lines that make no sense are passed over, since one bad line must
    /// not hide every other name; of two names for a number the first counts, as in libc.
    #[must_use]
    pub fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: by_number(passwd),
            groups: by_number(group),
        }
    }

    /// The user's name, or the number as text.
    #[must_use]
    pub fn user(&self, uid: u32) -> String {
        self.users
            .get(&uid)
            .cloned()
            .unwrap_or_else(|| uid.to_string())
    }

    /// The group's name, or the number as text.
    #[must_use]
    pub fn group(&self, gid: u32) -> String {
        self.groups
            .get(&gid)
            .cloned()
            .unwrap_or_else(|| gid.to_string())
    }

    /// The number of a user given by name or number; `None` when no such name is known.
    #[must_use]
    pub fn uid(&self, name: &str) -> Option<u32> {
        number_of(&self.users, name)
    }

    /// The number of a group given by name or number; `None` when no such name is known.
    #[must_use]
    pub fn gid(&self, name: &str) -> Option<u32> {
        number_of(&self.groups, name)
    }
}

fn by_number(text: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'));
        let number = fields.nth(1).and_then(|number| number.parse().ok());
        if let (Some(name), Some(number)) = (name, number) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

fn number_of(names: &BTreeMap<u32, String>, wanted: &str) -> Option<u32> {
    names
        .iter()
        .find(|(_, name)| *name == wanted)
        .map(|(number, _)| *number)
        .or_else(|| wanted.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_both_ways() {
        let accounts = Accounts::parse(
            "root:x:0:0:root:/root:/bin/bash\nbroken line\nana:x:1000:1000::/home/ana:\ntoor:x:0:0::/:\n",
            "root:x:0:\nadm:x:4:ana\n",
        );
        assert_eq!(accounts.user(0), "root");
        assert_eq!(accounts.user(7), "7");
        assert_eq!(accounts.group(4), "adm");
        assert_eq!(accounts.uid("ana"), Some(1000));
        assert_eq!(accounts.uid("42"), Some(42));
        assert_eq!(accounts.gid("nobody"), None);
    }
}
