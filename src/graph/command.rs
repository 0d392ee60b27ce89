//! A family's action with its placeholders parsed, and the variables that say the same. Owns what becomes of
//! argv and shell lines; `template` owns the grammar, executors start the processes.

use super::items::Item;
use super::spec::{Action, Stdin};
use super::template::{Context, Fault, Mode, Names, Template};
use crate::base::error::Result;

/// A family's action with its templates parsed.
#[derive(Clone, Debug)]
pub enum Command {
    /// A program and its arguments.
    Argv(Vec<Template>),
    /// A shell line.
    Shell(Template),
    /// A registered function: nothing to render.
    Native,
}

impl Command {
    /// Parses the templates of an action.
    pub fn parse(action: &Action, names: &Names) -> Result<Command, Fault> {
        let parse = |text: &String| Template::parse(text, names, Mode::Command);
        Ok(match action {
            Action::Argv(argv) => Command::Argv(argv.iter().map(parse).collect::<Result<_, _>>()?),
            Action::Shell(line) => Command::Shell(parse(line)?),
            Action::Native { .. } => Command::Native,
        })
    }

    /// The program and its arguments; of a shell line just the line, for the interpreter's last argument;
    /// nothing for native functions.
    pub fn render(&self, context: &dyn Context) -> Result<Vec<String>> {
        match self {
            Command::Argv(templates) => {
                let mut args = Vec::with_capacity(templates.len());
                for template in templates {
                    template.render_args(context, &mut args)?;
                }
                Ok(args)
            }
            Command::Shell(template) => Ok(vec![template.render_shell(context)?]),
            Command::Native => Ok(Vec::new()),
        }
    }

    /// Whether it names inputs by placeholder.
    pub fn names_inputs(&self) -> bool {
        match self {
            Command::Argv(templates) => templates.iter().any(Template::names_inputs),
            Command::Shell(template) => template.names_inputs(),
            Command::Native => false,
        }
    }

    /// Whether all inputs are to arrive on stdin: asked for, or `Auto` and no placeholder names any.
    pub fn reads_inputs(&self, stdin: &Stdin) -> bool {
        match stdin {
            Stdin::Inputs => true,
            Stdin::Auto => !self.names_inputs(),
            Stdin::Null | Stdin::File(_) => false,
        }
    }
}

/// The same values as variables: `HPCDAG_KEY`, `HPCDAG_INDEX`, `HPCDAG_ITEM`, for each matrix axis
/// `HPCDAG_ITEM_<NAME>`, for each parameter `HPCDAG_PARAM_<NAME>`, for each named output `HPCDAG_OUT_<NAME>`.
/// Inputs have none: their paths cost files, so only placeholders ask for them.
pub fn variables(names: &Names, context: &dyn Context) -> Result<Vec<(String, String)>> {
    let mut out = vec![
        ("HPCDAG_KEY".to_string(), context.key().to_string()),
        ("HPCDAG_INDEX".to_string(), context.index().to_string()),
    ];
    match context.item() {
        Item::None => {}
        Item::Block(..) => out.push(("HPCDAG_ITEM".to_string(), context.block()?)),
        item => out.extend(item.text().map(|text| ("HPCDAG_ITEM".to_string(), text))),
    }
    if let Item::Fields(fields) = context.item() {
        out.extend(fields.iter().map(|(name, value)| (variable("ITEM", name), value.clone())));
    }
    out.extend(names.params.iter().map(|(name, value)| (variable("PARAM", name), value.clone())));
    for (at, name) in names.outputs.iter().enumerate() {
        out.push((variable("OUT", name), context.output(at)?));
    }
    Ok(out)
}

fn variable(group: &str, name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("HPCDAG_{group}_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::template::tests::{Task, names};

    #[test]
    fn stdin_is_free_when_a_placeholder_names_inputs() {
        let parse = |line: &str| Command::parse(&Action::Shell(line.into()), &names()).unwrap();
        assert!(parse("sort").reads_inputs(&Stdin::Auto));
        assert!(!parse("sort {inputs...}").reads_inputs(&Stdin::Auto));
        assert!(parse("sort {inputs...}").reads_inputs(&Stdin::Inputs));
        assert!(!parse("sort").reads_inputs(&Stdin::Null));
    }

    #[test]
    fn arguments_are_plain_and_lines_quoted() {
        let argv = ["echo", "{item}", "{inputs...}"].map(String::from).to_vec();
        let task = Task(Item::Text("it's".into()));
        let render = |action| Command::parse(&action, &names()).unwrap().render(&task).unwrap();
        assert_eq!(render(Action::Argv(argv)), ["echo", "it's", "/in/a 0", "/in/a1", "/in/b"]);
        assert_eq!(render(Action::Shell("echo {item}".into())), [r"echo 'it'\''s'"]);
    }

    #[test]
    fn the_same_as_variables() {
        let task = Task(Item::Fields(vec![("re-x".into(), "1".into())]));
        let found = variables(&names(), &task).unwrap();
        let found: Vec<String> = found.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        let expected = [
            "HPCDAG_KEY=t[3]",
            "HPCDAG_INDEX=3",
            "HPCDAG_ITEM=re-x=1",
            "HPCDAG_ITEM_RE_X=1",
            "HPCDAG_PARAM_DAY=mon day",
            "HPCDAG_OUT_O=/out/0",
        ];
        assert_eq!(found, expected);
    }
}
