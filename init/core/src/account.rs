//! Accounts from the text of `/etc/passwd` and `/etc/group`. PID 1 is linked statically and must
//! not load name-service modules, so it reads the two files itself.

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Every other group, sorted.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Why a name is nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No line of passwd begins with the name.
    #[error("there is no account `{0}` in /etc/passwd")]
    Unknown(String),
    /// The line is broken.
    #[error("the line of `{0}` in /etc/passwd is broken")]
    Broken(String),
}

/// Looks an account up. Broken lines of other accounts are passed over.
///
/// # Errors
/// [`AccountError`] when there is no such account or its own line is broken.
pub fn resolve(passwd: &str, group: &str, name: &str) -> Result<Account, AccountError> {
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(name) && !name.is_empty())
        .ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
    let broken = || AccountError::Broken(name.to_owned());
    let fields: Vec<&str> = line.split(':').collect();
    let [_, _, uid, gid, _, home, ..] = fields.as_slice() else {
        return Err(broken());
    };
    let uid = uid.parse().map_err(|_| broken())?;
    let gid: u32 = gid.parse().map_err(|_| broken())?;
    let mut groups: Vec<u32> = group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, number, members, ..] = fields.as_slice() else {
                return None;
            };
            let member = members.split(',').any(|member| member.trim() == name);
            if member { number.parse().ok() } else { None }
        })
        .filter(|number| *number != gid)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(Account {
        name: name.to_owned(),
        uid,
        gid,
        groups,
        home: if home.is_empty() {
            "/".to_owned()
        } else {
            (*home).to_owned()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# nonsense\n\naios-memory:x:902:902::/var/lib/aios:/bin/false\nbad:x:many:1:::\nshort:x\n";
    const GROUP: &str =
        "root:x:0:\naios:x:900:aios-memory,aios-console\nadm:x:4: aios-memory\nbroken\n";

    #[test]
    fn an_account_has_its_groups() {
        let account = resolve(PASSWD, GROUP, "aios-memory").unwrap();
        assert_eq!((account.uid, account.gid), (902, 902));
        assert_eq!(account.groups, [4, 900]);
        assert_eq!(resolve(PASSWD, GROUP, "root").unwrap().uid, 0);
    }

    #[test]
    fn nobody_is_made_up() {
        assert_eq!(
            resolve(PASSWD, GROUP, "roo"),
            Err(AccountError::Unknown("roo".into()))
        );
        assert_eq!(
            resolve(PASSWD, GROUP, ""),
            Err(AccountError::Unknown(String::new()))
        );
        assert_eq!(
            resolve(PASSWD, GROUP, "bad"),
            Err(AccountError::Broken("bad".into()))
        );
        assert_eq!(
            resolve(PASSWD, GROUP, "short"),
            Err(AccountError::Broken("short".into()))
        );
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_survived(passwd in ".{0,200}", group in ".{0,200}", name in ".{0,10}") {
            let _ = resolve(&passwd, &group, &name);
        }
    }
}
