//! The graph of `submit -- CMD`, `--each-line` and `--array`, and where its tasks' stdout goes. Owns what
//! these options mean together; `graph::single` makes the family.

use super::args::{Array, Stdout, SubmitArgs};
use super::output::Out;
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::{FamilyIx, RunUuid};
use crate::client::{Destination, Discard, Files, Ordered, RunEnd};
use crate::graph::items::Items;
use crate::graph::single::{self, Each};
use crate::graph::{By, Graph, GraphOutput, Origin};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the tasks' stdout goes.
pub enum Target {
    /// Into files, as `[output]` says.
    Files,
    /// To this process's stdout, in order.
    Terminal(Ordered),
    /// Nowhere.
    Nowhere,
    /// It stays in the cluster until somebody fetches it.
    Kept,
}

impl Target {
    /// The destination for what is fetched, and the same as files if it is.
    ///
    /// # Errors
    /// `Graph` when a path is none.
    pub fn destination(&self, graph: &Graph) -> Result<(Arc<dyn Destination>, Option<Files>)> {
        Ok(match self {
            Target::Files => {
                let files = Files::of_graph(graph)?;
                (Arc::new(files.clone()), Some(files))
            }
            Target::Terminal(ordered) => (Arc::new(ordered.clone()), None),
            Target::Nowhere | Target::Kept => (Arc::new(Discard), None),
        })
    }
}

/// The graph of a command and what becomes of its stdout.
///
/// # Errors
/// `Usage` where options contradict one another; `File` when the list cannot be read.
pub fn build(args: &SubmitArgs, origin: &Origin) -> Result<(Graph, Target)> {
    let argv = args.command.iter().map(|word| {
        word.to_str().map(str::to_owned).ok_or_else(|| {
            Error::new(Kind::Usage, format!("the argument {} is not UTF-8", word.to_string_lossy()))
        })
    });
    let each = match (&args.each_line, &args.array) {
        (Some(file), _) => single::each_line(file)?,
        (None, Some(array)) => numbers(array)?,
        (None, None) => Each::Once,
    };
    let mut graph = single::command(argv.collect::<Result<Vec<_>>>()?, each, origin)?;
    let target = target(args, &graph)?;
    let path = match (&args.output, &args.stdout) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(Stdout::Directory(directory))) => Some(in_directory(directory, &graph)?),
        (None, _) => None,
    };
    // Only what somebody wants is kept, and whose output was taken has succeeded: nowhere is a place too.
    let by = if path.is_some() { None } else { Some(By::Client) };
    if path.is_some() || !(args.detach && matches!(target, Target::Nowhere)) {
        let path = path.unwrap_or_else(|| "{index}".to_owned());
        let output = GraphOutput { family: FamilyIx(0), part: None, path, by, skip_empty: false };
        check_path(&graph, &output)?;
        graph.outputs.push(output);
    }
    Ok((graph, target))
}

fn target(args: &SubmitArgs, graph: &Graph) -> Result<Target> {
    match (&args.output, &args.stdout) {
        (Some(_), _) | (None, Some(Stdout::Directory(_))) => Ok(Target::Files),
        (None, Some(Stdout::None)) => Ok(Target::Nowhere),
        (None, None) if args.detach => Ok(Target::Kept),
        (None, None) if args.json.json => {
            Err(Error::new(Kind::Usage, "the tasks' stdout and --json cannot share this command's stdout")
                .hint("send the tasks' to files with -o or --stdout, or nowhere with --stdout none"))
        }
        (None, None) => {
            let lines = !matches!(graph.items(FamilyIx(0)), Items::Single);
            Ok(Target::Terminal(Ordered::new(Terminal(Out::stdout()), lines)))
        }
    }
}

fn numbers(array: &Array) -> Result<Each> {
    let signed = |n: u64| {
        i64::try_from(n).map_err(|_| Error::new(Kind::Usage, format!("--array: the number {n} is too large")))
    };
    let [part] = array.parts.as_slice() else {
        return Ok(Each::Values(array.numbers().map(|n| n.to_string()).collect()));
    };
    let count = u32::try_from(array.count())
        .map_err(|_| Error::new(Kind::Usage, "--array: there are too many numbers"))?;
    signed(part.last)?;
    Ok(Each::Numbers { start: signed(part.first)?, step: signed(part.step)?, count })
}

fn in_directory(directory: &Path, graph: &Graph) -> Result<String> {
    let Some(directory) = directory.to_str() else {
        return Err(Error::new(Kind::Usage, format!("the path {} is not UTF-8", directory.display())));
    };
    let single = matches!(graph.items(FamilyIx(0)), Items::Single);
    Ok(format!("{directory}/{}", if single { "{key}.txt" } else { "{index}.txt" }))
}

fn check_path(graph: &Graph, output: &GraphOutput) -> Result<()> {
    let usage = |e: Error| Error { kind: Kind::Usage, message: format!("in the path: {}", e.message), ..e };
    let template = graph.output_template(output).map_err(usage)?;
    let family = !matches!(graph.items(FamilyIx(0)), Items::Single);
    if family && !template.varies() {
        return Err(Error::new(Kind::Usage, format!("all tasks would write the same file, {}", output.path))
            .hint("name files by {index}, {item} or {key}: -o 'out/{index}.txt'"));
    }
    if let Some((first, second, path)) = graph.clash(output)? {
        let message = format!("{first} and {second} would write the same file, {}", path.display());
        return Err(Error::new(Kind::Usage, message).hint("{index} differs always: -o 'out/{index}.txt'"));
    }
    Ok(())
}

/// Writes the items that did not succeed to a file that `--each-line` takes back; returns its path if there
/// are any. Without a family, or with nothing known of its tasks, there is no list.
///
/// # Errors
/// `File` when it cannot be written.
pub fn list_failed(graph: &Graph, end: &RunEnd, run: RunUuid, directory: &Path) -> Result<Option<PathBuf>> {
    let family = FamilyIx(0);
    let Some(total) = graph.families[0].shape().map(|s| s.total) else { return Ok(None) };
    if matches!(graph.items(family), Items::Single) || end.taken.len() as u64 >= u64::from(total) {
        return Ok(None);
    }
    let short: String = run.simple().to_string().chars().take(8).collect();
    let path = directory.join(format!("{}-{short}.failed", graph.name));
    let write = || {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
        for element in (0..total).filter(|e| !end.taken.contains(&(family, *e))) {
            if let Some(text) = graph.item(family, element).text() {
                writeln!(file, "{text}")?;
            }
        }
        file.flush()
    };
    write().map_err(|e| Error::file("cannot write", &path, &e))?;
    Ok(Some(path))
}

/// This process's stdout, beside a progress bar. A reader that has gone away is no error.
struct Terminal(Out);

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.bytes(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(e) => Err(std::io::Error::other(e.message)),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::client::summary::RunSummary;
    use clap::Parser;
    use rustc_hash::FxHashSet;

    fn args(line: &str) -> SubmitArgs {
        match Cli::parse_from(line.split(' ')).command {
            Command::Submit(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn built(line: &str) -> Result<(Graph, Target)> {
        build(&args(line), &Origin { name: "t".into(), base_dir: "/base".into(), umask: 0o022 })
    }

    #[test]
    fn stdout_goes_where_it_is_said() {
        let (graph, target) = built("hpcdag submit --array 5-8 -- echo {item}").unwrap();
        assert!(matches!(target, Target::Terminal(_)));
        assert_eq!(graph.outputs[0].by, Some(By::Client));
        assert_eq!(graph.item(FamilyIx(0), 2).text().as_deref(), Some("7"));
        let (graph, target) = built("hpcdag submit --array 1,4 -o o/{index} -- echo").unwrap();
        assert!(matches!(target, Target::Files) && graph.outputs[0].path == "o/{index}");
        let (graph, _) = built("hpcdag submit --array 1,4 --stdout d -- echo").unwrap();
        assert_eq!(graph.outputs[0].path, "d/{index}.txt");
        let (graph, target) = built("hpcdag submit --detach --stdout none -- echo").unwrap();
        assert!(matches!(target, Target::Nowhere) && graph.outputs.is_empty());
        let (graph, target) = built("hpcdag submit --stdout none -- echo").unwrap();
        assert!(matches!(target, Target::Nowhere) && graph.outputs.len() == 1);
        assert!(built("hpcdag submit --array 1-3 -o same -- echo").is_err());
        assert!(built("hpcdag submit --json -- echo").is_err());
        assert!(built("hpcdag submit --array 1-3,7 -o o/{item} -- echo").is_ok());
        let error = built("hpcdag submit --array 1-3,2 -o o/{item} -- echo").err().unwrap();
        assert!(error.kind == Kind::Usage && error.message.contains("/base/o/2"), "{error}");
        assert!(built("hpcdag submit --array 1-3,2 -o o/{item}-{index} -- echo").is_ok());
        assert!(built("hpcdag submit -o out -- echo").is_ok());
    }

    #[test]
    fn failed_items_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        let (graph, _) = built("hpcdag submit --array 10-14 -- echo").unwrap();
        let taken: FxHashSet<_> = [0, 2, 3].map(|e| (FamilyIx(0), e)).into_iter().collect();
        let mut end = RunEnd { summary: RunSummary::default(), taken };
        let list = list_failed(&graph, &end, RunUuid::nil(), directory.path()).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&list).unwrap(), "11\n14\n");
        assert!(list.ends_with("echo-00000000.failed"));
        end.taken = (0..5).map(|e| (FamilyIx(0), e)).collect();
        assert_eq!(list_failed(&graph, &end, RunUuid::nil(), directory.path()).unwrap(), None);
    }
}
