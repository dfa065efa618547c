//! What the commands print, to the letter: help, errors, a report, a profile.
//!
//! The cases are in `tests/output`. After an intended change, `TRYCMD=overwrite cargo test -p relpoline-cli --test output` writes
//! them anew; read the difference before it is committed. What depends on processes that run is in `tests/cli`.

#[test]
fn commands_print_what_they_are_meant_to() {
    // Wide and narrow terminals would break lines elsewhere.
    let cases = trycmd::TestCases::new();
    cases.env("COLUMNS", "80").case("tests/output/*.trycmd");
}
