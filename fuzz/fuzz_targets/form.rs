//! The reader of forms: any body is read or refused, and what is read stands in it.

#![no_main]

use filters::request_head;
use filters::route::{Route, Target};
use libfuzzer_sys::fuzz_target;

const ROUTES: [Route; 4] = [Route::ImageEdits, Route::ImageVariations, Route::Transcriptions, Route::Translations];

fuzz_target!(|input: &[u8]| {
    let (route, body) = fuzz::split(input);
    let target = Target { route: ROUTES[route % ROUTES.len()], name: None, provider: None };
    // Inputs say `--X` where a part begins.
    let Ok(head) = request_head::read(body, Some("multipart/form-data; boundary=X"), &target) else { return };
    assert!(head.choices >= 1);
});
