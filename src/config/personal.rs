//! What the command line takes from the environment of whoever types, where a server carries commands out.

use super::Secret;
use super::reading::environment;
use std::path::PathBuf;

/// Which server is meant, and who asks it.
#[derive(Debug)]
pub struct Personal {
    /// `TOLLGATE_SERVER`: the server, where no option names one.
    pub server: Option<String>,
    /// `TOLLGATE_TOKEN`: the token to ask with; it goes before a login.
    pub token: Option<Secret>,
    /// Where logins are kept: below `XDG_CONFIG_HOME`, or below `.config` at home. None: nobody is at home.
    pub login_file: Option<PathBuf>,
}

impl Personal {
    /// What the process was given.
    #[must_use]
    pub fn of_environment() -> Self {
        Self::of(&environment)
    }

    fn of(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let said = |name| environment(name).filter(|text| !text.is_empty());
        // A path that is not absolute is to be passed over: the XDG Base Directory Specification.
        let directory = |name| said(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let configuration = directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")));
        Self {
            server: said("TOLLGATE_SERVER"),
            token: said("TOLLGATE_TOKEN").map(Secret::of),
            login_file: configuration.map(|directory| directory.join("tollgate").join("login.json")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_below_what_the_user_has_chosen_or_at_home() {
        for (chosen, home, file) in [
            (Some("/chosen"), Some("/people/ada"), Some("/chosen/tollgate/login.json")),
            (Some("relative"), Some("/people/ada"), Some("/people/ada/.config/tollgate/login.json")),
            (Some(""), Some("/people/ada"), Some("/people/ada/.config/tollgate/login.json")),
            (None, None, None),
        ] {
            let personal = Personal::of(&|name| match name {
                "XDG_CONFIG_HOME" => chosen.map(str::to_owned),
                "HOME" => home.map(str::to_owned),
                "TOLLGATE_TOKEN" => Some(String::new()),
                _ => None,
            });
            assert_eq!(personal.login_file, file.map(PathBuf::from));
            assert!(personal.token.is_none() && personal.server.is_none());
        }
    }
}
