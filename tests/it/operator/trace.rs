//! Traces: without the feature `otlp` there are none. `tests/otlp` has the tests with it.

#[cfg(not(feature = "otlp"))]
#[test]
fn endpoint_without_the_feature_is_refused() {
    let message = "mortise: the setting otlp_endpoint (from MORTISE_OTLP_ENDPOINT) is invalid: \
                   this program was built without the feature otlp\n";
    assert_eq!(crate::harness::process::start_error("http://127.0.0.1:4318"), message);
}
