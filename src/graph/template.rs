//! Placeholders: `{item}`, `{in.NAME}` and the others of `docs/graph-file.md`, in arguments, shell lines and
//! paths. A template is parsed once for a family and rendered for each task. Owns the grammar and the
//! quoting; where inputs and outputs lie is the `Context`'s business, which names exist that of
//! `placeholder`.

use super::items::Item;
use super::placeholder::{Hole, PathPart, classify, escaped, word};
use super::spec::TaskSpec;
use crate::base::error::{Error, Kind, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// Which names a template may use.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The data inputs in order: producer, and its named outputs (`None`: not known here, so not checked).
    pub inputs: Vec<(String, Option<Vec<String>>)>,
    /// The task's own named outputs in order.
    pub outputs: Vec<String>,
    /// Parameters and their values.
    pub params: BTreeMap<String, String>,
    /// What the family's elements look like.
    pub elements: Elements,
}

/// What `{item}` may be followed by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Elements {
    /// Not known here (on the worker); wrong names show when rendering.
    #[default]
    Unknown,
    /// There is no item: single tasks, trees, groups, windows.
    None,
    /// A text or a piece of a file.
    Plain,
    /// Named values.
    Fields(Vec<String>),
}

impl Names {
    /// The names that a spec alone knows, as on the worker.
    pub fn of_spec(spec: &TaskSpec) -> Names {
        Names {
            inputs: spec.inputs.iter().map(|i| (i.producer.clone(), None)).collect(),
            outputs: spec.outputs.iter().map(|o| o.name.clone()).collect(),
            params: spec.params.clone(),
            elements: Elements::Unknown,
        }
    }
}

/// How strict the braces are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Commands: what is no placeholder stays as it is (awk, jq, shells have braces of their own).
    Command,
    /// Paths and element lists: any other name in braces is an error, for nothing else uses them there.
    Path,
}

/// A placeholder that does not exist, or not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where in the text, bytes.
    pub range: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What was expected.
    pub hint: String,
}

/// A parsed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hole(Hole),
}

/// Words that stand for something by themselves; no parameter, no matrix axis may have such a name.
pub const RESERVED: [&str; 7] = ["item", "index", "key", "in", "inputs", "out", "mpirun"];

/// What may follow `{item.`: parts of a path; no matrix axis may have such a name.
pub const PATH_PARTS: [&str; 4] = ["name", "stem", "ext", "dir"];

/// Where a task's values come from. Methods are called only for placeholders that occur, once for each.
pub trait Context {
    /// The element's value.
    fn item(&self) -> &Item;
    /// The element's index, from 0.
    fn index(&self) -> u32;
    /// The task's key.
    fn key(&self) -> &str;
    /// Path of a file that holds the piece, when the item is a piece of a file.
    fn block(&self) -> Result<String>;
    /// Paths of the inputs, in order: of one position in `spec.inputs` or of all; stdout or a named output.
    fn inputs(&self, input: Option<usize>, output: Option<&str>) -> Result<Vec<String>>;
    /// Path of a file that lists the paths of all inputs, each ended by a newline or (`nul`) by a zero byte.
    fn list(&self, nul: bool) -> Result<String>;
    /// Path to which the task writes its n-th named output.
    fn output(&self, output: usize) -> Result<String>;
    /// The words of the site's MPI launcher line.
    fn launcher(&self) -> Result<Vec<String>>;
}

/// The context of paths that are made without a task around, such as those under `[output]`.
#[derive(Clone, Debug)]
pub struct Plain<'a> {
    /// The element's value.
    pub item: &'a Item,
    /// The element's index.
    pub index: u32,
    /// The task's key.
    pub key: &'a str,
}

impl Context for Plain<'_> {
    fn item(&self) -> &Item {
        self.item
    }
    fn index(&self) -> u32 {
        self.index
    }
    fn key(&self) -> &str {
        self.key
    }
    /// The piece has no file here; its origin's path is what names can be made of.
    fn block(&self) -> Result<String> {
        Ok(self.item.text().unwrap_or_default())
    }
    fn inputs(&self, _: Option<usize>, _: Option<&str>) -> Result<Vec<String>> {
        Err(outside("{in.NAME} or {inputs...}"))
    }
    fn list(&self, _: bool) -> Result<String> {
        Err(outside("{inputs.list}"))
    }
    fn output(&self, _: usize) -> Result<String> {
        Err(outside("{out.NAME}"))
    }
    fn launcher(&self) -> Result<Vec<String>> {
        Err(outside("{mpirun}"))
    }
}

fn outside(what: &str) -> Error {
    Error::new(Kind::Graph, format!("{what} means something only while a task runs"))
}

impl Template {
    /// Parses a text. `{{item}}` gives the letters `{item}`; braces right after `$` are never placeholders.
    pub fn parse(text: &str, names: &Names, mode: Mode) -> Result<Template, Fault> {
        let mut pieces = Vec::new();
        let (mut plain, mut at) = (String::new(), 0);
        while let Some(found) = text[at..].find('{') {
            let open = at + found;
            plain.push_str(&text[at..open]);
            at = open;
            let shell_variable = text[..open].ends_with('$');
            if let Some(inside) = word(&text[open + 1..]).filter(|_| !shell_variable) {
                let range = open..open + inside.len() + 2;
                let located = |(message, hint)| Fault { range: range.clone(), message, hint };
                if let Some(hole) = classify(inside, names, mode).map_err(located)? {
                    push_text(&mut pieces, &mut plain);
                    pieces.push(Piece::Hole(hole));
                    at = open + inside.len() + 2;
                    continue;
                }
            } else if let Some(inside) = escaped(&text[open..]).filter(|_| !shell_variable)
                && matches!(classify(inside, names, Mode::Command), Ok(Some(_)) | Err(_))
            {
                plain.extend(["{", inside, "}"]);
                at = open + inside.len() + 4;
                continue;
            }
            plain.push('{');
            at += 1;
        }
        plain.push_str(&text[at..]);
        push_text(&mut pieces, &mut plain);
        Ok(Template { pieces })
    }

    /// The text, values plain. A placeholder for several paths is an error unless it has exactly one.
    pub fn render(&self, context: &dyn Context) -> Result<String> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Hole(hole) => match <[String; 1]>::try_from(hole.values(context)?) {
                    Ok([value]) => out.push_str(&value),
                    Err(values) if matches!(hole, Hole::Launcher) => out.push_str(&values.join(" ")),
                    Err(values) => return Err(several(hole, values.len(), context)),
                },
            }
        }
        Ok(out)
    }

    /// Appends the argument, values plain. A text that is nothing but one placeholder becomes as many
    /// arguments as that has values.
    pub fn render_args(&self, context: &dyn Context, args: &mut Vec<String>) -> Result<()> {
        match self.pieces.as_slice() {
            [Piece::Hole(hole)] => args.extend(hole.values(context)?),
            _ => args.push(self.render(context)?),
        }
        Ok(())
    }

    /// The text for a shell, every value quoted, several separated by blanks.
    pub fn render_shell(&self, context: &dyn Context) -> Result<String> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Hole(hole) => {
                    let values = hole.values(context)?;
                    let quoted: Vec<Cow<'_, str>> = values.iter().map(|v| quote(v)).collect();
                    out.push_str(&quoted.join(" "));
                }
            }
        }
        Ok(out)
    }

    /// Whether it names inputs, so that stdin is free for something else.
    pub fn names_inputs(&self) -> bool {
        self.holes().any(|h| matches!(h, Hole::Input { .. } | Hole::Inputs | Hole::List { .. }))
    }

    /// Whether elements of a family get different texts from it.
    pub fn varies(&self) -> bool {
        self.holes().any(|h| matches!(h, Hole::Item { .. } | Hole::Index | Hole::Key))
    }

    /// Whether it is text only.
    pub fn is_plain(&self) -> bool {
        self.holes().next().is_none()
    }

    /// Whether it uses what exists only while a task runs.
    pub fn needs_task(&self) -> bool {
        self.names_inputs() || self.holes().any(|h| matches!(h, Hole::Output(_) | Hole::Launcher))
    }

    /// Whether several values meet other text in one argument: `{inputs...}` that is not alone.
    pub fn splices_inside(&self) -> bool {
        self.pieces.len() > 1 && self.holes().any(|h| matches!(h, Hole::Inputs))
    }

    fn holes(&self) -> impl Iterator<Item = &Hole> {
        self.pieces.iter().filter_map(|p| if let Piece::Hole(hole) = p { Some(hole) } else { None })
    }
}

fn push_text(pieces: &mut Vec<Piece>, plain: &mut String) {
    if !plain.is_empty() {
        pieces.push(Piece::Text(std::mem::take(plain)));
    }
}

fn several(hole: &Hole, n: usize, context: &dyn Context) -> Error {
    let what = match hole {
        Hole::Input { output: Some(output), .. } => format!("an input's output `{output}`"),
        Hole::Input { .. } => "an input".to_string(),
        _ => "the inputs".to_string(),
    };
    Error::new(Kind::Graph, format!("{}: {what} stands for {n} paths inside one text", context.key()))
        .hint("make the placeholder an argument of its own, or use {inputs.list}")
}

impl Hole {
    fn values(&self, context: &dyn Context) -> Result<Vec<String>> {
        Ok(match self {
            Hole::Item { field, part } => vec![item_text(field.as_deref(), *part, context)?],
            Hole::Index => vec![context.index().to_string()],
            Hole::Key => vec![context.key().to_string()],
            Hole::Input { input, output } => context.inputs(Some(*input), output.as_deref())?,
            Hole::Inputs => context.inputs(None, None)?,
            Hole::List { nul } => vec![context.list(*nul)?],
            Hole::Output(output) => vec![context.output(*output)?],
            Hole::Launcher => context.launcher()?,
            Hole::Param(value) => vec![value.clone()],
        })
    }
}

fn item_text(field: Option<&str>, part: Option<PathPart>, context: &dyn Context) -> Result<String> {
    let missing = |what: &str| Error::new(Kind::Graph, format!("{}: {what}", context.key()));
    let item = context.item();
    let text = match (item, field) {
        (Item::None, _) => return Err(missing("the task has no {item}")),
        (Item::Fields(fields), Some(name)) => match fields.iter().find(|(n, _)| n == name) {
            Some((_, value)) => value.clone(),
            None => return Err(missing(&format!("the item has no value `{name}`"))),
        },
        (_, Some(name)) => return Err(missing(&format!("the item has no part `{name}`"))),
        (Item::Fields(_), None) if part.is_some() => {
            return Err(missing("the item is a combination, no path; say which of its values"));
        }
        (Item::Block(..), None) if part.is_none() => context.block()?,
        (_, None) => item.text().unwrap_or_default(),
    };
    Ok(match part {
        None => text,
        Some(part) => part.of(&text).to_string(),
    })
}

impl PathPart {
    /// The part of a path; empty where it has none.
    fn of(self, path: &str) -> &str {
        let path = std::path::Path::new(path);
        let part = match self {
            PathPart::Name => path.file_name(),
            PathPart::Stem => path.file_stem(),
            PathPart::Ext => path.extension(),
            PathPart::Dir => path.parent().map(std::path::Path::as_os_str),
        };
        part.and_then(std::ffi::OsStr::to_str).unwrap_or_default()
    }
}

/// A value as one word of a POSIX shell: as it is if nothing in it is special, else in single quotes.
pub fn quote(value: &str) -> Cow<'_, str> {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&b);
    if !value.is_empty() && value.bytes().all(harmless) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("'{}'", value.replace('\'', r"'\''")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A task with two inputs of `a`, one of `b`, an output `o`.
    pub struct Task(pub Item);

    impl Context for Task {
        fn item(&self) -> &Item {
            &self.0
        }
        fn index(&self) -> u32 {
            3
        }
        fn key(&self) -> &str {
            "t[3]"
        }
        fn block(&self) -> Result<String> {
            Ok("/tmp/block".into())
        }
        fn inputs(&self, input: Option<usize>, output: Option<&str>) -> Result<Vec<String>> {
            let all = ["/in/a 0", "/in/a1", "/in/b"];
            let paths = match input {
                Some(0) => &all[..2],
                Some(_) => &all[2..],
                None => &all[..],
            };
            Ok(paths.iter().map(|p| format!("{p}{}", output.unwrap_or_default())).collect())
        }
        fn list(&self, nul: bool) -> Result<String> {
            Ok(format!("/list{}", u8::from(nul)))
        }
        fn output(&self, output: usize) -> Result<String> {
            Ok(format!("/out/{output}"))
        }
        fn launcher(&self) -> Result<Vec<String>> {
            Ok(vec!["srun".into(), "-n".into(), "4".into()])
        }
    }

    pub fn names() -> Names {
        Names {
            inputs: vec![("a".into(), Some(vec!["f".into()])), ("b".into(), Some(vec![]))],
            outputs: vec!["o".into()],
            params: BTreeMap::from([("day".into(), "mon day".into())]),
            elements: Elements::Plain,
        }
    }

    fn text(value: &str) -> Task {
        Task(Item::Text(value.into()))
    }

    fn parse(text: &str) -> Template {
        Template::parse(text, &names(), Mode::Command).unwrap_or_else(|f| panic!("{text}: {f:?}"))
    }

    fn args(text_: &str) -> Vec<String> {
        let mut out = Vec::new();
        parse(text_).render_args(&text("x y"), &mut out).unwrap();
        out
    }

    #[test]
    fn foreign_braces_survive() {
        let texts = [
            "awk '{print $1}' | awk '{ s += $2 } END {print s}'",
            "jq -c '{a, b: .c}' | jq '{items}'",
            "cp x.{c,h} {1..5} ${item} ${index:-0} \"${key}\" $${day}",
            "find . -exec ls {} \\; {inputs} {input...} {list} {Item} { item } {item} "
                .trim_end_matches("{item} "),
            "{",
            "}",
            "{}",
            "{{}}",
            "{{x}}",
            "{{ item }}",
            "{item",
            "item}",
            "ünï{cödé}",
            "{.}",
            "{-}",
        ];
        for t in texts {
            assert!(parse(t).is_plain(), "{t}");
            assert_eq!(parse(t).render(&text("V")).unwrap(), t);
        }
    }

    #[test]
    fn placeholders_have_their_values() {
        let cases = [
            ("{item}", "/d/a.tar.gz"),
            ("<{item.name}|{item.stem}|{item.ext}|{item.dir}>", "<a.tar.gz|a.tar|gz|/d>"),
            ("{index}-{key}", "3-t[3]"),
            ("{day}", "mon day"),
            ("{in.b}", "/in/b"),
            ("{out.o}", "/out/0"),
            ("{inputs.list} {inputs.list0}", "/list0 /list1"),
            ("{mpirun} x", "srun -n 4 x"),
            ("{{item}} {{in.b}} {{{item}}}", "{item} {in.b} {{item}}"),
            ("{\"x\":{index}}", "{\"x\":3}"),
        ];
        for (template, expected) in cases {
            assert_eq!(parse(template).render(&text("/d/a.tar.gz")).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn a_lone_placeholder_splices() {
        assert_eq!(args("{inputs...}"), ["/in/a 0", "/in/a1", "/in/b"]);
        assert_eq!(args("{in.a}"), ["/in/a 0", "/in/a1"]);
        assert_eq!(args("{in.a.f}"), ["/in/a 0f", "/in/a1f"]);
        assert_eq!(args("{mpirun}"), ["srun", "-n", "4"]);
        assert_eq!(args("--in={in.b}"), ["--in=/in/b"]);
        assert_eq!(args("{item}"), ["x y"]);
        let mut out = Vec::new();
        let error = parse("--in={in.a}").render_args(&text("x"), &mut out).unwrap_err();
        assert_eq!(error.message, "t[3]: an input stands for 2 paths inside one text");
    }

    #[test]
    fn wrong_names_are_found_with_their_place() {
        let fault = |t: &str, mode| Template::parse(t, &names(), mode).unwrap_err();
        let found = fault("xy {in.c} z", Mode::Command);
        assert_eq!((found.range, found.message.as_str()), (3..9, "unknown input `c`"));
        assert_eq!(fault("{item.nmae}", Mode::Command).hint, "did you mean `name`?");
        assert_eq!(fault("{in.b.f}", Mode::Command).hint, "there is none here");
        assert_eq!(fault("{dya}", Mode::Path).hint, "did you mean `day`?");
        let fields = Names { elements: Elements::Fields(vec!["re".into(), "f".into()]), ..names() };
        for good in ["{item}", "{item.re}", "{item.f.stem}", "{{item.zz}}"] {
            assert!(Template::parse(good, &fields, Mode::Command).is_ok(), "{good}");
        }
        for bad in ["{item.stem}", "{item.dt}", "{item.dt.stem}", "{item.re.x}"] {
            assert!(Template::parse(bad, &fields, Mode::Command).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_a_matrix() {
        let task = Task(Item::Fields(vec![("f".into(), "/p/x.nc".into()), ("k".into(), "2".into())]));
        let on_worker = Names::default();
        let render = |t: &str| Template::parse(t, &on_worker, Mode::Command).unwrap().render(&task);
        assert_eq!(render("{item.f.stem}-{item.k} {item}").unwrap(), "x-2 f=/p/x.nc,k=2");
        assert!(render("{item.z}").is_err() && render("{item.stem}").is_err());
    }

    #[test]
    fn a_piece_is_a_file_with_the_name_of_its_origin() {
        let task = Task(Item::Block("/p/x.csv".into(), 5, 9));
        assert_eq!(parse("{item} {item.name}").render(&task).unwrap(), "/tmp/block x.csv");
    }

    /// Whatever a value holds, the shell must see just that.
    #[test]
    fn quoting_holds_in_a_real_shell() {
        let nasty = [
            "",
            " ",
            "plain",
            "a b",
            "it's",
            "''",
            "\"",
            "$HOME",
            "`id`",
            "$(id)",
            "a;b",
            "a&&b",
            "a|b",
            "*",
            "?",
            "[a]",
            "~",
            "~root",
            "#x",
            "!x",
            "\\",
            "\\n",
            "a\\'b",
            "line\nline",
            "\ttab",
            "-n",
            "--",
            "{a,b}",
            "{1..3}",
            "a=b",
            "<x",
            ">x",
            "(x)",
            "%s%d",
            "ümläut €",
            "\u{1}\u{7f}",
            "trailing\n",
            "'\\''",
        ];
        let template = Template::parse("printf '%s\\0' {item} x{item}y", &names(), Mode::Command).unwrap();
        for value in nasty {
            let line = template.render_shell(&text(value)).unwrap();
            let out =
                std::process::Command::new("bash").args(["-eo", "pipefail", "-c", &line]).output().unwrap();
            let expected = format!("{value}\0x{value}y\0");
            assert_eq!(String::from_utf8_lossy(&out.stdout), expected, "{line}");
        }
        let several = parse("printf '<%s>' {inputs...}").render_shell(&text("")).unwrap();
        assert_eq!(several, "printf '<%s>' '/in/a 0' /in/a1 /in/b");
    }

    #[test]
    fn what_a_template_uses() {
        assert!(parse("{in.a}").names_inputs() && parse("{inputs.list0}").names_inputs());
        assert!(!parse("{item} {out.o} {{in.a}}").names_inputs());
        assert!(parse("x{key}").varies() && !parse("{day}{out.o}").varies());
        assert!(parse("{out.o}").needs_task() && !parse("{item}").needs_task());
        assert!(parse("x{inputs...}").splices_inside() && !parse("{inputs...}").splices_inside());
    }
}
