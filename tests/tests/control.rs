//! Promotion is switched off and on from inside, while threads run.

use relpoline_tests::{Program, Run};

#[test]
fn disable_leads_every_site_back_to_its_thunk() {
    let program = Program::retpolined("control.c").build();
    Run::new(&program).plain().assert_success();
    for option in ["--count", "--no-link"] {
        let outcome = Run::new(&program).args(&["engine"]).option(option).promoted();
        outcome.assert_success();
        outcome.report().assert_promoted(&["quiet_site", "running_site"]);
    }
}
