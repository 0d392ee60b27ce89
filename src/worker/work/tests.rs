//! That what is handed over starts, or says why it does not.

use super::*;
use crate::base::failure::FailureKind;

#[test]
fn a_job_that_cannot_be_made_is_a_failure() {
    let failure = Families::default().job(
        &Start {
            task: TaskRef::default(),
            attempt: Attempt::default(),
            tries: 0,
            family: crate::base::ids::FamilyIx(3),
            element: 0,
            keep: true,
            inputs: vec![],
            in_line: false,
        },
        None,
        &mut Store::default(),
    );
    let kind = failure.err().map(|f| f.kind);
    assert!(matches!(kind, Some(FailureKind::Prepare(text)) if text.contains("family 3")));
}
