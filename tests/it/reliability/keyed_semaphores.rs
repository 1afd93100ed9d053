//! The semaphores by key that serialize requests.

use futures_util::FutureExt;
use mortise::locks::KeyedSemaphores;

#[tokio::test]
async fn requests_of_a_key_get_its_permits_in_order() {
    let semaphores = KeyedSemaphores::new(2);
    let (first, _second) = (semaphores.acquire("a").await, semaphores.acquire("a").await);
    let (mut third, mut fourth) = (Box::pin(semaphores.acquire("a")), Box::pin(semaphores.acquire("a")));
    assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
    assert!(semaphores.acquire("b").now_or_never().is_some(), "other keys have permits of their own");
    drop(first);
    assert!(fourth.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_some());
}

/// A request whose client disconnects may be the next one in the queue, or already have its permit.
#[tokio::test]
async fn cancelled_request_leaves_its_permit_to_the_next_one() {
    let semaphores = KeyedSemaphores::new(1);
    let first = semaphores.acquire("a").await;
    let (mut second, mut third) = (Box::pin(semaphores.acquire("a")), Box::pin(semaphores.acquire("a")));
    assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
    drop(first);
    drop(second);
    assert!(third.as_mut().now_or_never().is_some());
}

/// The semaphores of keys that are not used are removed, and those in use stay.
#[test]
fn many_keys_share_no_permit() {
    // Without a runtime, which would end a long loop of acquired permits.
    let semaphores = KeyedSemaphores::new(1);
    let try_acquire = |key| semaphores.acquire(key).now_or_never();
    let mut held = Vec::new();
    for key in 0..10_000 {
        let permit = try_acquire(key).unwrap();
        if key % 100 == 0 {
            held.push(permit);
        }
    }
    for key in 0..10_000 {
        assert_eq!(try_acquire(key).is_some(), key % 100 != 0, "{key}");
    }
    held.clear();
    assert!((0..10_000).all(|key| try_acquire(key).is_some()));
}
