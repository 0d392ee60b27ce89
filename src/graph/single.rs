//! Graphs of one command: `submit -- CMD`, `--each-line FILE`, `--array 1-1000000`. Owns their reading; what
//! the command line may say besides is `cli`'s business.

use super::build::Origin;
use super::command::Command;
use super::expand::{lines, range_len, text};
use super::items::Items;
use super::layer::{Layer, Size};
use super::spec::{Action, Stdin, TaskSpec};
use super::{Family, Graph, MAX_ELEMENTS};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// What a command is repeated over.
#[derive(Clone, Debug, PartialEq)]
pub enum Each {
    /// Nothing: it runs once.
    Once,
    /// These values.
    Values(Vec<String>),
    /// `count` numbers from `start` on.
    Numbers {
        /// First number.
        start: i64,
        /// Difference of neighbours.
        step: i64,
        /// How many.
        count: u32,
    },
}

/// Builds the graph. It runs in the submitter's directory; callers change `layer` and `spec` as options say.
///
/// # Errors
/// `Kind::Usage` where the command is empty or uses placeholders that do not exist.
pub fn command(argv: Vec<String>, each: Each, origin: &Origin) -> Result<Graph> {
    let Some(program) = argv.first() else {
        return Err(Error::new(Kind::Usage, "there is no command to run").hint("write it after `--`"));
    };
    let (items, total) = match each {
        Each::Once => (Items::Single, 1),
        Each::Values(values) => {
            let total = u32::try_from(values.len()).unwrap_or(u32::MAX);
            (Items::Values(values), total)
        }
        Each::Numbers { start, step, count } => (Items::Range { start, step }, count),
    };
    if total == 0 || total > MAX_ELEMENTS {
        let what =
            format!("a command is repeated at least once and at most {MAX_ELEMENTS} times, not {total}");
        return Err(Error::new(Kind::Usage, what));
    }
    let name = name_of(program);
    let spec = TaskSpec {
        name: name.clone(),
        action: Action::Argv(argv),
        inputs: Vec::new(),
        outputs: Vec::new(),
        stdin: Stdin::Auto,
        env: BTreeMap::new(),
        setup: None,
        cwd: Some(".".to_string()),
        base_dir: origin.base_dir.clone(),
        umask: origin.umask,
        ok_exit: vec![0],
        max_output: None,
        time_limit_ms: None,
        memory: Vec::new(),
        nthreads: 1,
        shell: Vec::new(),
        nodes: None,
        gpus: 0,
        params: BTreeMap::new(),
        kept: None,
        checkpoint: None,
    };
    let layer = Layer { size: Size::Fixed(total), ..Layer::default() };
    let graph = Graph { name, families: vec![Family { layer, spec, items }], ..Graph::default() };
    if let Err(fault) = Command::parse(&graph.families[0].spec.action, &graph.names(FamilyIx(0))) {
        let hint = format!("{}; doubled braces, {{{{item}}}}, stand for the letters", fault.hint);
        return Err(Error::new(Kind::Usage, format!("in the command: {}", fault.message)).hint(hint));
    }
    graph.validate()?;
    Ok(graph)
}

/// The program's file name, made a task's name.
fn name_of(program: &str) -> String {
    let name = Path::new(program).file_name().and_then(|n| n.to_str()).unwrap_or("command");
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let name: String = name.chars().map(plain).take(64).collect();
    let name = name.trim_start_matches('-');
    if name.is_empty() { "command".to_string() } else { name.to_string() }
}

/// Reads `--each-line FILE`; `-` is stdin. Empty lines do not count.
pub fn each_line(path: &Path) -> Result<Each> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut f| f.read_to_end(&mut bytes))
    };
    let text = read.and_then(|_| text(bytes));
    let text = text.map_err(|e| Error::file("cannot read lines from", path, &e))?;
    let values = lines(&text);
    if values.is_empty() {
        return Err(Error::new(Kind::Usage, format!("{} has no lines", path.display())));
    }
    if let Some(at) = values.iter().position(|v| v.contains('\0')) {
        let what = format!("line {} of {} has a zero byte", at + 1, path.display());
        return Err(Error::new(Kind::Usage, what));
    }
    Ok(Each::Values(values))
}

/// Parses `--array`, as Slurm writes it: `1-1000000`, `0-30:10`, `7`, `1,4,10-12`; ends are included.
pub fn array(text: &str) -> Result<Each> {
    let wrong = || {
        let error = Error::new(Kind::Usage, format!("`{text}` is not an array"));
        match text.contains('%') {
            true => error.hint("limit what runs at a time with -j instead of `%`"),
            false => error.hint("write 1-100, 0-30:10 or 1,4,10-12"),
        }
    };
    let mut ranges = Vec::new();
    for part in text.split(',') {
        ranges.push(array_range(part.trim()).ok_or_else(wrong)?);
    }
    if let [(start, step, count)] = ranges.as_slice() {
        return Ok(Each::Numbers { start: *start, step: *step, count: *count });
    }
    if ranges.iter().map(|r| u64::from(r.2)).sum::<u64>() > 10_000_000 {
        return Err(Error::new(Kind::Usage, "a list of ranges is limited to 10,000,000 numbers"));
    }
    let values = ranges
        .into_iter()
        .flat_map(|(start, step, count)| (0..i64::from(count)).map(move |i| (start + i * step).to_string()));
    Ok(Each::Values(values.collect()))
}

/// First number, step and count.
fn array_range(text: &str) -> Option<(i64, i64, u32)> {
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<i64>().ok()).flatten();
    let (range, step) = match text.split_once(':') {
        Some((range, step)) => (range, number(step).filter(|s| *s > 0)?),
        None => (text, 1),
    };
    let (start, last) = match range.split_once('-') {
        Some((start, last)) => (number(start)?, number(last)?),
        None if range == text => (number(range)?, number(range)?),
        None => return None,
    };
    let count = range_len(start, last.checked_add(1)?, step)?;
    (count > 0).then_some((start, step, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::expansion;

    fn origin() -> Origin {
        Origin { name: "x".into(), base_dir: "/here".into(), umask: 0o022 }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| w.to_string()).collect()
    }

    #[test]
    fn arrays_are_written_as_in_slurm() {
        let numbers = |start, step, count| Ok(Each::Numbers { start, step, count });
        assert_eq!(array("1-1000000"), numbers(1, 1, 1_000_000));
        assert_eq!(array("0-30:10"), numbers(0, 10, 4));
        assert_eq!(array("7"), numbers(7, 1, 1));
        assert_eq!(array("1,4,10-12"), Ok(Each::Values(words(&["1", "4", "10", "11", "12"]))));
        for bad in
            ["", "a", "3-1", "1-", "-1", "1-3:0", "1-3:-1", "1:2", "1-9223372036854775807", "1-2%3", "1--2"]
        {
            assert_eq!(array(bad).unwrap_err().kind, Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn commands_become_graphs() {
        let once = command(words(&["/bin/ls", "-l"]), Each::Once, &origin()).unwrap();
        assert_eq!(expansion(&once, 9), "ls\n");
        let many = command(words(&["./a b.sh", "{item}"]), array("5-6").unwrap(), &origin()).unwrap();
        assert_eq!(expansion(&many, 9), "a_b_sh[5]\na_b_sh[6]\n");
        let lines = command(words(&["x", "{item}"]), Each::Values(words(&["p", "q"])), &origin()).unwrap();
        assert_eq!(expansion(&lines, 1), "x[0] (p)\nand 1 more\n");
        let bytes =
            rmp_serde::to_vec(&command(words(&["true"]), array("1-1000000").unwrap(), &origin()).unwrap());
        assert!(bytes.unwrap().len() < 1024);
    }

    #[test]
    fn wrong_commands_are_usage_errors() {
        let error = command(words(&["echo", "{item}"]), Each::Once, &origin()).unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.to_string().contains("{{item}}"), "{error}");
        assert_eq!(command(vec![], Each::Once, &origin()).unwrap_err().kind, Kind::Usage);
        assert_eq!(command(words(&["x"]), Each::Values(vec![]), &origin()).unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn lines_come_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a b\n\nc\r\nd").unwrap();
        assert_eq!(each_line(file.path()), Ok(Each::Values(words(&["a b", "c", "d"]))));
        std::fs::write(file.path(), "\n").unwrap();
        assert_eq!(each_line(file.path()).unwrap_err().kind, Kind::Usage);
        assert_eq!(each_line(Path::new("/nowhere")).unwrap_err().kind, Kind::File);
    }
}
