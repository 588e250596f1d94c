//! Files that nobody should trust: every reader, some thousands of spoilt ones each, and what more of them have found.

pub mod readers;

use readers::Reader;

/// Inputs of all readers together.
const INPUTS: u64 = 20_000;

/// The first failure of a reader, as `cargo bench --bench fuzz` would have it again, and how many of its inputs were read.
fn attempt(reader: &Reader, inputs: u64) -> (Option<String>, u64) {
    let mut read = 0;
    for number in 0..inputs {
        let input = reader.input(0, number);
        match reader.check(&input) {
            Ok(was_read) => read += u64::from(was_read),
            Err(fault) => {
                let fault = format!("--reader \"{}\" --first {number} ({}): {fault}", reader.name, input.name);
                return (Some(fault), read);
            }
        }
    }
    (None, read)
}

#[test]
fn hostile_files_are_errors_within_bounds() {
    let mut faults = Vec::new();
    let readers = readers::all();
    for reader in &readers {
        let inputs = reader.share_of(INPUTS, &readers);
        let (fault, read) = attempt(reader, inputs);
        // A reader that refuses all, or none, is not tried.
        assert!(fault.is_some() || (1..inputs).contains(&read), "{}: {read} of {inputs} are read", reader.name);
        faults.extend(fault);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
