//! Compares timers with a sorted list, and deadlines with a map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest_derive::Arbitrary;

use crate::timers::{Deadlines, TimerKey, Timers};

#[derive(Clone, Debug, Arbitrary)]
enum Operation {
    #[proptest(weight = 4)] // Small heaps test little.
    Arm {
        after: u8,
    },
    Cancel(u8),
    Rearm {
        which: u8,
        after: u8,
    },
    Pass {
        time: u8,
    },
}

#[derive(Clone, Debug, Arbitrary)]
enum Setting {
    #[proptest(weight = 40)]
    Set { key: u8, deadline: u8 },
    #[proptest(weight = 10)]
    Clear { key: u8 },
    #[proptest(weight = 10)]
    Pop { now: u8 },
}

proptest! {
    #![proptest_config(crate::models::cases::cases())]

    #[test]
    fn timers_are_a_sorted_list(operations in prop::collection::vec(any::<Operation>(), 0..400)) {
        let mut timers = Timers::new();
        let mut model: Vec<(u64, usize, TimerKey)> = Vec::new(); // deadline, alarm, key
        let mut now = 0;
        for (alarm, operation) in operations.into_iter().enumerate() {
            match operation {
                Operation::Arm { after } => {
                    let deadline = now + u64::from(after);
                    model.push((deadline, alarm, timers.arm(deadline, alarm)));
                }
                Operation::Cancel(which) if !model.is_empty() => {
                    let (_, alarm, key) = model.remove(usize::from(which) % model.len());
                    assert_eq!(timers.cancel(key), alarm);
                }
                Operation::Rearm { which, after } if !model.is_empty() => {
                    let which = usize::from(which) % model.len();
                    model[which].0 = now + u64::from(after);
                    timers.rearm(model[which].2, model[which].0);
                }
                Operation::Pass { time } => {
                    now += u64::from(time);
                    while let Some(alarm) = timers.pop(now) {
                        let due = model.iter().position(|entry| entry.1 == alarm).expect("it is armed");
                        assert_eq!(model[due].0, model[0].0, "out of order");
                        model.remove(due);
                    }
                    assert!(model.iter().all(|entry| entry.0 > now), "a due timer did not fire");
                }
                _ => {}
            }
            model.sort_unstable();
            assert_eq!(timers.next(), model.first().map(|entry| entry.0));
            assert_eq!(timers.len(), model.len());
            let mut armed: Vec<_> = timers.iter().map(|(key, &alarm)| (alarm, key)).collect();
            let mut expected: Vec<_> = model.iter().map(|&(_, alarm, key)| (alarm, key)).collect();
            armed.sort_unstable();
            expected.sort_unstable();
            assert_eq!(armed, expected);
        }
    }

    #[test]
    fn deadlines_are_a_map_from_key_to_deadline(settings in prop::collection::vec(any::<Setting>(), 0..400)) {
        let mut deadlines = Deadlines::default();
        let mut model = BTreeMap::new();
        for setting in settings {
            match setting {
                Setting::Set { key, deadline } => {
                    deadlines.set(key.into(), deadline.into());
                    model.insert(u32::from(key), u64::from(deadline));
                }
                Setting::Clear { key } if model.contains_key(&key.into()) => {
                    deadlines.clear(key.into());
                    model.remove(&key.into());
                }
                Setting::Pop { now } => {
                    let earliest = model.values().min().copied();
                    let popped = deadlines.pop(now.into());
                    assert_eq!(popped.is_some(), earliest.is_some_and(|deadline| deadline <= now.into()));
                    assert_eq!(popped.and_then(|key| model.remove(&key)), popped.and(earliest));
                }
                Setting::Clear { .. } => {}
            }
            assert_eq!(deadlines.len(), model.len());
            assert_eq!(deadlines.next(), model.values().min().copied());
            for key in 0..=u8::MAX.into() {
                assert_eq!(deadlines.get(key), model.get(&key).copied());
            }
        }
    }
}

#[test]
fn a_hundred_thousand_timers_leave_nothing_behind() {
    let mut timers = Timers::new();
    let keys: Vec<_> = (0..100_000u64).map(|i| timers.arm(i * 7_919 % 100_003, i)).collect();
    for round in 0..10 {
        for &key in &keys {
            timers.rearm(key, (u64::from(key) * 31 + round) % 100_003);
        }
    }
    assert_eq!(timers.len(), 100_000);
    for key in keys {
        timers.cancel(key);
    }
    assert_eq!(timers.len(), 0);
    assert!(timers.alarms.is_empty());
    assert!(timers.deadlines.heap.capacity() <= 131_072, "re-arming must not make entries pile up");
}
