//! Runs a JavaScript file and prints what it evaluates to.

use std::process::ExitCode;

use rquickjs::{Context, Runtime};

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: quickjs-host SCRIPT");
        return ExitCode::from(2);
    };
    match run(&path) {
        Ok(said) => println!("{said}"),
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(path: &str) -> Result<String, Box<dyn std::error::Error>> {
    let script = std::fs::read_to_string(path)?;
    let runtime = Runtime::new()?;
    let context = Context::full(&runtime)?;
    Ok(context.with(|context| context.eval::<String, _>(script))?)
}
