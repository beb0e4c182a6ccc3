//! How fast the time-stamp counter runs, which the guest is told so that it need not measure it.
//!
//! Under TCG the guest's TSC is the host's. A guest left to calibrate it waits for a timer that may not answer while the
//! host is busy: 15 of 62 microvm boots hung there, and 0 of 36 with `tsc_early_khz` on the kernel's command line.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::sys;

/// The leaf where VMware, KVM and others give the guest's TSC frequency in kHz.
const HYPERVISOR_TIMING_LEAF: u32 = 0x4000_0010;
const HYPERVISOR_BASE_LEAF: u32 = 0x4000_0000;
const CRYSTAL_CLOCK_LEAF: u32 = 0x15;
/// What a measurement takes once per process. The clock measured against is itself made from the TSC on most hosts, so
/// the error is that of two readings, some 30 ns each.
const MEASUREMENT: Duration = Duration::from_millis(20);
/// A measured figure is rounded to this, so that it is the same in most processes of one host.
const MEASURED_GRAIN_KHZ: u64 = 10;

/// Returns the frequency of the host's time-stamp counter in kHz, as the processor or hypervisor states it, or else as
/// measured once in this process (rounded to 10 kHz).
///
/// A template's key should hold the value that its guest was given: two processes may measure values one grain apart.
pub fn host_tsc_khz() -> u32 {
    static KHZ: OnceLock<u32> = OnceLock::new();
    *KHZ.get_or_init(|| stated_khz(sys::cpuid).unwrap_or_else(measured_khz))
}

fn stated_khz(cpuid: impl Fn(u32) -> [u32; 4]) -> Option<u32> {
    crystal_khz(&cpuid).or_else(|| hypervisor_khz(&cpuid))
}

/// Leaf 0x15: TSC = crystal (ecx, Hz) × ebx / eax; any of them may be zero, which means not stated.
fn crystal_khz(cpuid: &impl Fn(u32) -> [u32; 4]) -> Option<u32> {
    let [highest, ..] = cpuid(0);
    if highest < CRYSTAL_CLOCK_LEAF {
        return None;
    }
    let [denominator, numerator, crystal_hertz, _] = cpuid(CRYSTAL_CLOCK_LEAF);
    let product = u64::from(crystal_hertz) * u64::from(numerator);
    plausible(product.checked_div(u64::from(denominator))? / 1000)
}

fn hypervisor_khz(cpuid: &impl Fn(u32) -> [u32; 4]) -> Option<u32> {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    let [_, _, features, _] = cpuid(1);
    if features & HYPERVISOR_PRESENT == 0 {
        return None;
    }
    let [highest, ..] = cpuid(HYPERVISOR_BASE_LEAF);
    if !(HYPERVISOR_TIMING_LEAF..=HYPERVISOR_BASE_LEAF + 0xffff).contains(&highest) {
        return None;
    }
    let [khz, ..] = cpuid(HYPERVISOR_TIMING_LEAF);
    plausible(u64::from(khz))
}

/// 100 MHz to 20 GHz; anything else is a leaf that means something different.
fn plausible(khz: u64) -> Option<u32> {
    u32::try_from(khz).ok().filter(|khz| (100_000..20_000_000).contains(khz))
}

fn measured_khz() -> u32 {
    let (start_ticks, start_nanoseconds) = paired_reading();
    std::thread::sleep(MEASUREMENT);
    let (end_ticks, end_nanoseconds) = paired_reading();
    khz_between(end_ticks - start_ticks, end_nanoseconds - start_nanoseconds)
}

fn khz_between(ticks: u64, nanoseconds: u64) -> u32 {
    let khz = u128::from(ticks) * 1_000_000 / u128::from(nanoseconds.max(1));
    let grain = u128::from(MEASURED_GRAIN_KHZ);
    u32::try_from((khz + grain / 2) / grain * grain).unwrap_or(u32::MAX)
}

/// One instant on both clocks: of 32 readings, the one during which the least time passed.
fn paired_reading() -> (u64, u64) {
    let readings = (0..32).map(|_| {
        let before = sys::time_stamp();
        let clock = clock_gettime(ClockId::MonotonicRaw);
        let after = sys::time_stamp();
        (after.wrapping_sub(before), before + after.wrapping_sub(before) / 2, nanoseconds(clock))
    });
    let (_, ticks, clock) = readings.min_by_key(|(spread, ..)| *spread).unwrap_or_default();
    (ticks, clock)
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(stated: &'static [(u32, [u32; 4])]) -> impl Fn(u32) -> [u32; 4] {
        move |leaf| stated.iter().find(|(known, _)| *known == leaf).map_or([0; 4], |(_, registers)| *registers)
    }

    #[test]
    fn crystal_leaf_is_believed_first() {
        let cpuid = leaves(&[
            (0, [0x16, 0, 0, 0]),
            (1, [0, 0, 1 << 31, 0]),
            (0x15, [2, 216, 24_000_000, 0]),
            (0x4000_0000, [0x4000_0010, 0, 0, 0]),
            (0x4000_0010, [1_000_000, 0, 0, 0]),
        ]);
        assert_eq!(stated_khz(cpuid), Some(2_592_000));
    }

    #[test]
    fn hypervisor_leaf_is_believed_only_under_a_hypervisor_that_has_it() {
        let timing = (0x4000_0010, [2_596_130, 0, 0, 0]);
        let present = (1, [0, 0, 1 << 31, 0]);
        let high = (0x4000_0000, [0x4000_0010, 0, 0, 0]);
        let table: &'static [_] = Box::leak(Box::new([present, high, timing]));
        assert_eq!(stated_khz(leaves(table)), Some(2_596_130));
        let bare: &'static [_] = Box::leak(Box::new([high, timing]));
        assert_eq!(stated_khz(leaves(bare)), None);
        let low: &'static [_] = Box::leak(Box::new([present, (0x4000_0000, [0x4000_0001, 0, 0, 0]), timing]));
        assert_eq!(stated_khz(leaves(low)), None);
    }

    #[test]
    fn nonsense_leaves_are_not_believed() {
        assert_eq!(stated_khz(leaves(&[(0, [0x15, 0, 0, 0]), (0x15, [0, 5, 5, 0])])), None);
        assert_eq!(stated_khz(leaves(&[(0, [0x15, 0, 0, 0]), (0x15, [1, u32::MAX, u32::MAX, 0])])), None);
        assert_eq!(stated_khz(leaves(&[])), None);
    }

    #[test]
    fn measured_figure_is_ticks_over_time_rounded_to_the_grain() {
        assert_eq!(khz_between(51_922_600, 20_000_000), 2_596_130);
        assert_eq!(khz_between(51_922_640, 20_000_000), 2_596_130);
        assert_eq!(khz_between(1, 0), 1_000_000);
    }

    #[test]
    fn measurement_repeats_within_a_thousandth() {
        let (first, second) = (f64::from(measured_khz()), f64::from(measured_khz()));
        assert!((first / second - 1.0).abs() < 0.001, "{first} kHz, then {second} kHz");
    }
}
