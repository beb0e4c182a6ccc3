//! Who may be run as: `/etc/passwd` and `/etc/group`, read directly, since a static program has no name service.

use std::fs;

use hearth_protocol::{ErrorCode, Fault};

/// The list of users.
pub(super) const USERS: &str = "/etc/passwd";
/// The list of groups.
pub(super) const GROUPS: &str = "/etc/group";

/// A user of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

impl User {
    /// Finds a user by name or by number.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownUser`].
    pub(crate) fn find(wanted: &str) -> Result<Self, Fault> {
        let passwd = fs::read_to_string(USERS).unwrap_or_default();
        let group = fs::read_to_string(GROUPS).unwrap_or_default();
        Self::find_in(&passwd, &group, wanted).ok_or_else(|| {
            Fault::never_started(ErrorCode::UnknownUser, format!("there is no user {wanted:?} in /etc/passwd"))
        })
    }

    fn find_in(passwd: &str, group: &str, wanted: &str) -> Option<Self> {
        let number = wanted.parse::<u32>().ok();
        let is_wanted = |user: &Self| user.name == wanted || Some(user.uid) == number;
        let mut user = passwd.lines().filter_map(Self::parse).find(is_wanted)?;
        user.groups = supplementary(group, &user.name, user.gid);
        Some(user)
    }

    /// All but the groups.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?.to_owned();
        let shell = fields.next().filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh").to_owned();
        Some(Self { name, uid, gid, groups: Vec::new(), home, shell })
    }
}

fn supplementary(group: &str, name: &str, primary: u32) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':');
        let gid: u32 = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    };
    [primary].into_iter().chain(group.lines().filter_map(member).filter(|&gid| gid != primary)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken line\nuser:x:1000:1000::/home/user:/bin/bash\nplain:x:7:8::/:\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:other,user\nuser:x:1000:user\n";

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups() {
        let by_name = User::find_in(PASSWD, GROUP, "user").unwrap();
        assert_eq!(by_name.groups, [1000, 27]);
        assert_eq!(User::find_in(PASSWD, GROUP, "1000"), Some(by_name));
        assert_eq!(User::find_in(PASSWD, GROUP, "plain").unwrap().shell, "/bin/sh");
        assert_eq!(User::find_in(PASSWD, GROUP, "nobody"), None);
    }
}
