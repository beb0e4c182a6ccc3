//! Who may ask, and from where. It stands before the router, so nothing behind it can be reached around it.

use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, header};
use hearth_api::{ErrorBody, OwnCode};

use super::Keys;
use crate::answer::Refusal;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// This process's own user, over the socket.
    Owner {
        /// The process that connected.
        pid: Option<i32>,
    },
    /// The holder of a key, over TCP.
    Key {
        /// The key's name.
        name: String,
    },
}

/// What a request over TCP must have: a `Host` that is this one's, no `Origin` of another's, and a key.
///
/// A page in a browser can be made to send requests to any address, also under a name that its owner points here (DNS rebinding). Neither
/// gets past: the name is not one of ours, and the page's origin is not the host it asks.
#[derive(Debug)]
pub(crate) struct Gate {
    address: IpAddr,
    names: Vec<String>,
    is_tls: bool,
    keys: Keys,
}

impl Gate {
    pub(super) fn new(address: IpAddr, names: Vec<String>, is_tls: bool, keys: Keys) -> Self {
        Self { address, names, is_tls, keys }
    }

    /// Lets a request in, and says whose it is.
    pub(crate) fn admit(&self, request: &Parts) -> Result<Caller, Refusal> {
        let host = self.host(request)?;
        self.check_origin(&request.headers, host)?;
        let holder = bearer(&request.headers).and_then(|key| self.keys.holder(key));
        let name = holder.ok_or_else(|| {
            let message =
                "this needs an API key, as \"authorization: Bearer KEY\", and there was none or none that counts";
            ErrorBody::new(OwnCode::Unauthorized, message)
                .with_field("authorization")
                .with_hint(Some("hearth key create NAME makes one, on the daemon's machine".to_owned()))
        })?;
        Ok(Caller::Key { name })
    }

    /// The host that is asked, if it is this one. A request's target may name another than its header.
    fn host<'a>(&self, request: &'a Parts) -> Result<&'a str, Refusal> {
        let named = only(&request.headers, header::HOST).filter(|host| self.is_known(host));
        let is_target_known = request.uri.authority().is_none_or(|target| self.is_known(target.as_str()));
        named.filter(|_| is_target_known).ok_or_else(|| {
            let hint =
                "a daemon is known by its address, as localhost, and by the names given with --host-name".to_owned();
            forbidden("host", "the host that was asked is not this one").with_hint(Some(hint)).into()
        })
    }

    fn is_known(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host();
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        match bare.parse::<IpAddr>() {
            // Who listens everywhere has addresses that he does not know, and nobody else's page has an address for a name.
            Ok(address) => address == self.address || self.address.is_unspecified(),
            Err(_) => {
                let known = self.names.iter().map(String::as_str).chain(["localhost"]);
                !authority.as_str().contains('@') && known.into_iter().any(|known| known.eq_ignore_ascii_case(name))
            }
        }
    }

    /// A page that the daemon's own host has given may ask, no other.
    fn check_origin(&self, headers: &HeaderMap, host: &str) -> Result<(), Refusal> {
        if !headers.contains_key(header::ORIGIN) {
            return Ok(());
        }
        let scheme = if self.is_tls { "https://" } else { "http://" };
        let own = only(headers, header::ORIGIN).and_then(|origin| origin.strip_prefix(scheme));
        match own.is_some_and(|own| own.eq_ignore_ascii_case(host)) {
            true => Ok(()),
            false => Err(forbidden("origin", "a page of another origin may not ask here").into()),
        }
    }
}

fn forbidden(field: &str, message: &str) -> ErrorBody {
    ErrorBody::new(OwnCode::Forbidden, message).with_field(field)
}

/// A header that is there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() { None } else { first.to_str().ok() }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = only(headers, header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    struct Case {
        gate: Gate,
        key: String,
        _home: tempfile::TempDir,
    }

    impl Case {
        fn new(address: [u8; 4], is_tls: bool) -> Self {
            let home = tempfile::tempdir().unwrap();
            let keys = Keys::below(home.path());
            let key = keys.create("ci").unwrap();
            let gate = Gate::new(IpAddr::from(address), vec!["box.example".to_owned()], is_tls, keys);
            Self { gate, key, _home: home }
        }

        /// What comes of a request with these headers: the code and the field of its refusal.
        fn ask(&self, target: &str, headers: &[(&str, &str)]) -> Result<Caller, (u16, Option<String>)> {
            let mut request = Request::builder().uri(target);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            self.gate.admit(&parts).map_err(|refusal| (refusal.0.code.status(), refusal.0.field))
        }

        #[track_caller]
        fn check(&self, headers: &[(&str, &str)], wanted: Result<(), (u16, &str)>) {
            let bearer = format!("Bearer {}", self.key);
            let headers = [headers, &[("authorization", bearer.as_str())]].concat();
            let found = self.ask("/v1/health", &headers);
            let wanted = wanted.map(|()| Caller::Key { name: "ci".to_owned() });
            assert_eq!(found, wanted.map_err(|(status, field)| (status, Some(field.to_owned()))), "{headers:?}");
        }
    }

    #[test]
    fn only_a_host_that_is_this_one_is_served() {
        let case = Case::new([10, 0, 0, 5], true);
        for own in ["10.0.0.5", "10.0.0.5:7070", "localhost:1", "LOCALHOST", "Box.Example:7070"] {
            case.check(&[("host", own)], Ok(()));
        }
        for foreign in
            ["", "evil.example", "box.example.evil.example", "10.0.0.6", "127.0.0.1", "[::1]", "a@localhost", "x y"]
        {
            case.check(&[("host", foreign)], Err((403, "host")));
        }
        case.check(&[], Err((403, "host")));
        case.check(&[("host", "localhost"), ("host", "evil.example")], Err((403, "host")));
        let refused = case.ask("http://evil.example/v1/health", &[("host", "localhost")]);
        assert_eq!(refused, Err((403, Some("host".to_owned()))));
        let everywhere = Case::new([0, 0, 0, 0], true);
        everywhere.check(&[("host", "192.168.7.7:99")], Ok(()));
        everywhere.check(&[("host", "[fe80::1]:99")], Ok(()));
        everywhere.check(&[("host", "evil.example")], Err((403, "host")));
    }

    #[test]
    fn a_page_of_another_origin_is_refused_even_with_a_key() {
        let (tls, plain) = (Case::new([127, 0, 0, 1], true), Case::new([127, 0, 0, 1], false));
        let host = ("host", "localhost:7070");
        tls.check(&[host, ("origin", "https://localhost:7070")], Ok(()));
        plain.check(&[host, ("origin", "http://localhost:7070")], Ok(()));
        for foreign in
            ["http://localhost:7070", "https://localhost:3000", "https://localhost", "https://evil.example", "null", ""]
        {
            tls.check(&[host, ("origin", foreign)], Err((403, "origin")));
        }
        tls.check(&[host, ("origin", "https://localhost:7070"), ("origin", "null")], Err((403, "origin")));
    }

    #[test]
    fn without_a_key_that_counts_nothing_is_answered() {
        let case = Case::new([127, 0, 0, 1], false);
        let (right, host) = (case.key.clone(), ("host", "127.0.0.1:7070"));
        let wrong = Err((401, Some("authorization".to_owned())));
        assert_eq!(case.ask("/", &[host]), wrong);
        let unfit = [
            "",
            "Bearer",
            "Bearer ",
            &right,
            &format!("Basic {right}"),
            &format!("Bearer {right}x"),
            "Bearer hearth_00",
        ];
        for value in unfit {
            assert_eq!(case.ask("/", &[host, ("authorization", value)]), wrong, "{value}");
        }
        let twice = format!("Bearer {right}");
        assert_eq!(case.ask("/", &[host, ("authorization", &twice), ("authorization", &twice)]), wrong);
        assert!(case.ask("/", &[host, ("authorization", &format!("bearer  {right}"))]).is_ok());
    }
}
