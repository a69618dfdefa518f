use k8s_openapi::jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Queue, QueueLimits, Ticket, Turn};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn ticket(uid: &str, priority: i32, since: i64) -> Ticket {
    // The namespace is the letter that the name begins with.
    Ticket { namespace: uid[..1].to_owned(), name: uid.to_owned(), priority, since: at(since) }
}

fn limits(max_running: Option<usize>, max_running_per_namespace: Option<usize>) -> QueueLimits {
    QueueLimits { max_running, max_running_per_namespace }
}

/// A queue in which something else runs, so that all of these wait, in the order in which they come.
fn full(waiting: &[(&str, i32)]) -> Queue {
    let mut queue = Queue::new(limits(Some(1), None));
    queue.resume("something", "else");
    for (since, (uid, priority)) in (0..).zip(waiting) {
        assert!(matches!(
            queue.turn(uid, &ticket(uid, *priority, since), at(since)),
            Turn::Waiting { .. }
        ));
    }
    queue
}

/// The order in which they run, when each that gets its turn keeps it.
fn turns(queue: &mut Queue, most: usize) -> Vec<String> {
    let mut order = Vec::new();
    for number in 0..most {
        queue.limits.max_running = Some(number + 2);
        for (namespace, name) in queue.next(at(100)) {
            queue.resume(&name, &namespace);
            order.push(name);
        }
    }
    order
}

#[test]
fn without_limits_nobody_waits() {
    let mut queue = Queue::new(QueueLimits::default());
    for number in 0..1000 {
        let uid = format!("a{number}");
        assert_eq!(queue.turn(&uid, &ticket(&uid, 0, 0), at(0)), Turn::Granted);
    }
    assert_eq!((queue.running(), queue.waiting()), (1000, 0));
}

#[test]
fn the_order_is_fair_between_namespaces_then_by_priority_then_by_age() {
    for (waiting, expected) in [
        // First come, first served.
        (vec![("a1", 0), ("a2", 0), ("a3", 0)], vec!["a1", "a2", "a3"]),
        // A namespace with many builds does not push the others aside.
        (
            vec![("a1", 0), ("a2", 0), ("a3", 0), ("b1", 0), ("c1", 0)],
            vec!["a1", "b1", "c1", "a2", "a3"],
        ),
        // Priority counts within a namespace, and between namespaces that run as many.
        (vec![("a1", 0), ("a2", 9), ("a3", 5)], vec!["a2", "a3", "a1"]),
        (vec![("a1", 0), ("b1", 7)], vec!["b1", "a1"]),
        // It does not take a namespace's share away.
        (vec![("a1", 9), ("a2", 9), ("a3", 9), ("b1", 0)], vec!["a1", "b1", "a2", "a3"]),
        (vec![("a1", -1), ("a2", 0)], vec!["a2", "a1"]),
    ] {
        let mut queue = full(&waiting);
        let positions: Vec<_> = expected
            .iter()
            .map(|uid| {
                let waiting = queue.waiting[*uid].0.clone();
                queue.turn(uid, &waiting, at(50))
            })
            .collect();
        let counted: Vec<_> =
            (1..=expected.len()).map(|position| Turn::Waiting { position }).collect();
        assert_eq!(positions, counted, "{waiting:?}");
        assert_eq!(turns(&mut queue, expected.len()), expected, "{waiting:?}");
    }
}

#[test]
fn a_namespace_with_a_long_line_does_not_keep_a_single_turn_for_itself() {
    let mut queue = Queue::new(limits(Some(1), None));
    queue.resume("a0", "a");
    for (since, uid) in (1..).zip(["a1", "a2", "a3", "b1", "b2"]) {
        assert!(matches!(queue.turn(uid, &ticket(uid, 0, since), at(since)), Turn::Waiting { .. }));
    }
    let mut order = Vec::new();
    let mut last = "a0".to_owned();
    while queue.leave(&last, at(50)) {
        let Some((namespace, name)) = queue.next(at(50)).pop() else { break };
        queue.resume(&name, &namespace);
        last.clone_from(&name);
        order.push(name);
    }
    assert_eq!(order, ["b1", "a1", "b2", "a2", "a3"]);
    assert!(
        queue.last_turn.is_empty(),
        "nothing is remembered of namespaces that neither run nor wait"
    );
}

#[test]
fn a_namespace_at_its_limit_waits_while_others_go_on() {
    let mut queue = Queue::new(limits(Some(3), Some(1)));
    let turn = |queue: &mut Queue, uid: &str| queue.turn(uid, &ticket(uid, 0, 0), at(0));
    assert_eq!(turn(&mut queue, "a1"), Turn::Granted);
    assert_eq!(turn(&mut queue, "a2"), Turn::Waiting { position: 1 });
    assert_eq!(turn(&mut queue, "b1"), Turn::Granted);
    assert_eq!(queue.next(at(0)), []);
    assert!(queue.leave("a1", at(50)));
    assert_eq!(queue.next(at(0)), [("a".to_owned(), "a2".to_owned())]);
    assert_eq!(turn(&mut queue, "a2"), Turn::Granted);
}

#[test]
fn a_turn_is_kept_until_the_build_leaves_and_then_goes_to_the_next() {
    let mut queue = full(&[("a1", 0), ("b1", 0)]);
    assert!(queue.leave("something", at(50)));
    // The second asks first: it is not its turn.
    assert_eq!(queue.turn("b1", &ticket("b1", 0, 1), at(9)), Turn::Waiting { position: 2 });
    assert_eq!(queue.turn("a1", &ticket("a1", 0, 0), at(9)), Turn::Granted);
    assert_eq!(
        queue.turn("a1", &ticket("a1", 5, 7), at(99)),
        Turn::Granted,
        "also with another ticket"
    );
    assert!(queue.leave("a1", at(50)));
    assert!(!queue.leave("a1", at(50)), "a second time changes nothing");
    assert_eq!(queue.turn("b1", &ticket("b1", 0, 1), at(9)), Turn::Granted);
}

#[test]
fn one_that_waits_and_leaves_is_nobodys_hindrance() {
    let mut queue = full(&[("a1", 0), ("b1", 0)]);
    assert!(!queue.leave("a1", at(50)), "it had no turn to give");
    assert!(queue.leave("something", at(50)));
    assert_eq!(queue.turn("b1", &ticket("b1", 0, 1), at(9)), Turn::Granted);
}

#[test]
fn a_namespace_that_takes_no_pod_gives_its_turn_to_others_for_a_while() {
    let mut queue = Queue::new(limits(Some(1), None));
    let (first, second, other) = (ticket("a1", 0, 0), ticket("a2", 0, 1), ticket("b1", 0, 2));
    assert_eq!(queue.turn("a1", &first, at(2)), Turn::Granted);
    queue.hold("a1", &first, at(2), at(7));
    assert_eq!(
        queue.turn("a2", &second, at(3)),
        Turn::Waiting { position: 1 },
        "it is smaller, perhaps"
    );
    assert_eq!(queue.turn("b1", &other, at(3)), Turn::Granted);
    queue.leave("b1", at(4));
    assert_eq!(queue.next(at(6)), []);
    assert_eq!(
        queue.turn("a1", &first, at(7)),
        Turn::Waiting { position: 2 },
        "it is behind, also when it asks first"
    );
    assert_eq!(queue.next(at(7)), [("a".to_owned(), "a2".to_owned())]);
    assert_eq!(queue.turn("a2", &second, at(7)), Turn::Granted);
}

#[test]
fn a_namespace_that_had_no_room_tries_one_at_a_time_and_goes_on_while_they_fit() {
    let mut queue = Queue::new(limits(None, None));
    let tickets: Vec<_> = ["a1", "a2", "a3", "a4"]
        .into_iter()
        .zip(0..)
        .map(|(uid, since)| ticket(uid, 0, since))
        .collect();
    for ticket in &tickets {
        assert_eq!(queue.turn(&ticket.name, ticket, at(5)), Turn::Granted);
    }
    for ticket in &tickets {
        queue.hold(&ticket.name, ticket, at(5), at(7));
    }
    let name = |uid: &str| vec![("a".to_owned(), uid.to_owned())];
    assert_eq!(queue.next(at(6)), []);
    assert_eq!(queue.next(at(7)), name("a1"), "the others are not even told");
    assert_eq!(queue.turn("a2", &tickets[1], at(7)), Turn::Waiting { position: 2 });
    assert_eq!(queue.turn("a1", &tickets[0], at(7)), Turn::Granted);
    assert_eq!(queue.next(at(8)), [], "first it shows whether that one fits");
    queue.fits("a1", at(8));
    assert_eq!(queue.next(at(8)), name("a2"));
    assert_eq!(queue.turn("a2", &tickets[1], at(8)), Turn::Granted);
    queue.hold("a2", &tickets[1], at(8), at(10));
    assert_eq!(queue.next(at(9)), []);
    queue.leave("a1", at(9));
    assert_eq!(
        queue.next(at(9)),
        name("a3"),
        "what has ended made room; who was refused more often is behind"
    );
}

#[test]
fn one_that_never_fits_is_behind_all_that_may_whatever_its_priority() {
    let mut queue = Queue::new(limits(Some(1), None));
    let (large, small, later) = (ticket("a1", 9, 0), ticket("a2", 0, 1), ticket("a3", 0, 2));
    assert_eq!(queue.turn("a1", &large, at(2)), Turn::Granted);
    queue.hold("a1", &large, at(2), at(4));
    for (uid, ticket) in [("a2", &small), ("a3", &later)] {
        assert!(matches!(queue.turn(uid, ticket, at(3)), Turn::Waiting { .. }));
    }
    // Its reconcile has written down since when it waits: that is another ticket, and no better place.
    assert_eq!(
        queue.turn("a1", &Ticket { since: at(1), ..large.clone() }, at(4)),
        Turn::Waiting { position: 3 }
    );
    assert_eq!(queue.turn("a2", &small, at(4)), Turn::Granted);
    queue.leave("a2", at(5));
    assert_eq!(queue.turn("a3", &later, at(5)), Turn::Granted);
    queue.leave("a3", at(6));
    assert_eq!(queue.turn("a1", &large, at(6)), Turn::Granted);
}

#[test]
fn a_turn_that_was_told_and_not_taken_goes_to_the_next() {
    let mut queue = full(&[("a1", 0), ("b1", 0)]);
    queue.leave("something", at(9));
    assert_eq!(queue.next(at(9)), [("a".to_owned(), "a1".to_owned())]);
    assert!(!queue.leave("a1", at(9)), "deleted before it took its turn");
    assert_eq!(queue.next(at(9)), [("b".to_owned(), "b1".to_owned())]);
}

#[test]
fn positions_of_a_long_queue_are_right_after_a_second() {
    let names: Vec<String> = (0..300).map(|number| format!("a{number:03}")).collect();
    let mut queue = full(&names.iter().map(|name| (name.as_str(), 0)).collect::<Vec<_>>());
    for (number, name) in names.iter().enumerate() {
        let place = queue.waiting[name].0.clone();
        assert_eq!(queue.turn(name, &place, at(400)), Turn::Waiting { position: number + 1 });
    }
    queue.leave("a000", at(50));
    let last = queue.waiting["a299"].0.clone();
    assert_eq!(queue.turn("a299", &last, at(402)), Turn::Waiting { position: 299 });
}

#[derive(Clone, Debug)]
enum Step {
    Ask(usize),
    Leave(usize),
    Hold(usize),
    Resume(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40usize).prop_map(Step::Ask),
        3 => (0..40usize).prop_map(Step::Leave),
        1 => (0..40usize).prop_map(Step::Hold),
        1 => (0..40usize).prop_map(Step::Resume),
    ]
}

proptest! {
    #[test]
    fn limits_hold_whatever_comes_and_everyone_gets_a_turn(
        steps in prop::collection::vec(any_step(), 0..200), most in 1..6usize, most_per_namespace in 1..4usize,
    ) {
        let mut queue = Queue::new(limits(Some(most), Some(most_per_namespace)));
        let uid = |number: usize| format!("{}{number}", ["a", "b", "c"][number % 3]);
        let of = |number: usize| ticket(&uid(number), i32::try_from(number % 5).unwrap(), i64::try_from(number).unwrap());
        let mut resumed = 0;
        let free_in = |queue: &Queue, namespace: &str| {
            most_per_namespace.saturating_sub(queue.running_in.get(namespace).copied().unwrap_or_default())
        };
        for (second, step) in (0..).zip(steps) {
            match step {
                Step::Ask(number) => {
                    let had_room = queue.free() > 0 && free_in(&queue, &of(number).namespace) > 0;
                    let was_running = queue.running.contains_key(&uid(number));
                    let turn = queue.turn(&uid(number), &of(number), at(second));
                    prop_assert!(was_running || had_room || turn != Turn::Granted);
                }
                Step::Leave(number) => {
                    queue.leave(&uid(number), at(second));
                }
                Step::Hold(number) => {
                    queue.hold(&uid(number), &of(number), at(second), at(second) + SignedDuration::from_secs(3));
                }
                Step::Resume(number) => {
                    resumed += usize::from(!queue.running.contains_key(&uid(number)));
                    queue.resume(&uid(number), &of(number).namespace);
                }
            }
            prop_assert!(queue.running() <= most + resumed);
            prop_assert_eq!(queue.running_in.values().sum::<usize>(), queue.running());
            let is_known = |namespace: &String| queue.running_in.contains_key(namespace) || queue.lines.contains_key(namespace);
            prop_assert!(queue.last_turn.keys().all(is_known));
            prop_assert!(queue.held.keys().all(|namespace| queue.lines.contains_key(namespace)));
            prop_assert!(queue.refusals.keys().all(|uid| queue.running.contains_key(uid) || queue.waiting.contains_key(uid)));
            prop_assert_eq!(queue.lines.values().map(std::collections::BTreeSet::len).sum::<usize>(), queue.waiting());
        }
        // From here on those who run end, one after the other, and those whose turn it is take it.
        let mut now = 1000;
        while queue.waiting() > 0 {
            let running: Vec<String> = queue.running.keys().take(1).cloned().collect();
            for uid in &running {
                queue.leave(uid, at(now));
            }
            for (_, name) in queue.next(at(now)) {
                let ticket = queue.waiting[&name].0.clone();
                prop_assert_eq!(queue.turn(&name, &ticket, at(now)), Turn::Granted);
            }
            now += 1;
            prop_assert!(now < 2000, "{} wait for ever", queue.waiting());
        }
    }
}
