//! Whether there is a way out of the guest: a route that is not the loopback's.

use std::fs;

/// A route that is up.
const UP: u32 = 0x1;
/// A route that refuses what goes there.
const REJECT: u32 = 0x200;

/// Whether any network can be reached. The kernel's lists are short: one line a route.
pub(super) fn is_there() -> bool {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    has_v4(&read("route")) || has_v6(&read("ipv6_route"))
}

/// `Iface Destination Gateway Flags ..`, a heading first.
fn has_v4(routes: &str) -> bool {
    routes.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [interface, _, _, flags, ..] if interface != "lo" && leads(flags))
    })
}

/// `destination length source length hop metric references uses flags interface`.
fn has_v6(routes: &str) -> bool {
    routes.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[destination, _, _, _, _, _, _, _, flags, interface] = &fields[..] else { return false };
        // Neighbours on the link and groups of them are no way to anywhere.
        let is_local = destination.starts_with("fe8") || destination.starts_with("ff");
        interface != "lo" && !is_local && leads(flags)
    })
}

fn leads(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UP != 0 && flags & REJECT == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn a_route_of_any_interface_but_the_loopback_is_a_way_out() {
        let with = |line: &str| has_v4(&format!("{HEADING}{line}\n"));
        assert!(with("eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"));
        assert!(with("eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"));
        assert!(!with("lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0"));
        assert!(!with("eth0\t00000000\t0102A8C0\t0002\t0\t0\t0\t00000000\t0\t0\t0"));
        assert!(!has_v4(HEADING) && !has_v4("") && !with("eth0 x"));
    }

    #[test]
    fn of_the_newer_protocol_links_and_refusals_are_none() {
        let zero = "00000000000000000000000000000000";
        let route = |destination: &str, flags: &str, interface: &str| {
            has_v6(&format!("{destination} 00 {zero} 00 {zero} 00000400 00000001 00000000 {flags} {interface}\n"))
        };
        assert!(route(zero, "00000003", "eth0"));
        assert!(!route(zero, "00200200", "lo"));
        assert!(!route(zero, "00000201", "eth0"));
        assert!(!route("fe800000000000000000000000000000", "00000001", "eth0"));
        assert!(!route("ff000000000000000000000000000000", "00000001", "eth0"));
        assert!(!has_v6("nonsense\n"));
    }
}
