//! A machine for tests: a temporary root, a pre-image store beside it, and calls that go the way of
//! the registry (validate, normalise, pre-image, execute, check).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aios_tool_api::{BlobStore, Context, PreImage, Registry, ToolError, Undone};
use serde_json::Value;

pub(crate) struct Machine {
    dir: tempfile::TempDir,
    pub(crate) context: Context,
    pub(crate) registry: Registry,
}

/// What a call left, enough to undo it.
pub(crate) struct Call {
    tool: &'static str,
    pub(crate) args: Value,
    pub(crate) pre_image: Option<PreImage>,
    pub(crate) output: Value,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(&root).unwrap();
        let mut context = Context::new(
            BlobStore::new(dir.path().join("blobs")),
            Duration::from_secs(60),
        );
        context.root = root;
        let mut registry = Registry::default();
        crate::register(&mut registry);
        Self {
            dir,
            context,
            registry,
        }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.context.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn context_at(&self, root: impl AsRef<Path>) -> Context {
        let mut context = self.context.clone();
        context.root = root.as_ref().to_owned();
        context
    }

    pub(crate) fn normalise(&self, tool: &str, args: Value) -> Result<Value, ToolError> {
        self.registry
            .get(tool)
            .unwrap()
            .normalise(&args, &self.context)
    }

    /// The whole way of a call.
    pub(crate) fn run(&self, tool: &'static str, args: Value) -> Result<Call, ToolError> {
        let found = self.registry.get(tool).unwrap();
        let args = found.normalise(&args, &self.context)?;
        assert!(!found.capabilities(&args)?.is_empty());
        let pre_image = found.pre_image(&args, &self.context)?;
        let output = found.execute(&args, &self.context)?;
        found.check(&args, &output, &self.context)?;
        Ok(Call {
            tool,
            args,
            pre_image,
            output,
        })
    }

    pub(crate) fn output(&self, tool: &'static str, args: Value) -> Value {
        self.run(tool, args).unwrap().output
    }

    pub(crate) fn undo(&self, call: &Call) -> Undone {
        self.undo_with(call, Some(&call.output)).unwrap()
    }

    /// Undo as after a crash when `output` is `None`.
    pub(crate) fn undo_with(
        &self,
        call: &Call,
        output: Option<&Value>,
    ) -> Result<Undone, ToolError> {
        let pre_image = call.pre_image.as_ref().unwrap();
        self.registry
            .get(call.tool)
            .unwrap()
            .undo(&call.args, pre_image, output, &self.context)
    }

    /// Everything below the root as comparable text: kind, mode, owner, content or target.
    pub(crate) fn snapshot(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt as _;
        fn visit(path: &Path, root: &Path, out: &mut Vec<String>) {
            let meta = std::fs::symlink_metadata(path).unwrap();
            let what = if meta.is_file() {
                String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
            } else if meta.is_symlink() {
                std::fs::read_link(path).unwrap().display().to_string()
            } else {
                String::new()
            };
            let shown = path.strip_prefix(root).unwrap().display();
            out.push(format!(
                "{shown} {:o} {}:{} {what:?}",
                meta.mode(),
                meta.uid(),
                meta.gid()
            ));
            if meta.is_dir() {
                let mut names: Vec<_> = std::fs::read_dir(path)
                    .unwrap()
                    .map(|e| e.unwrap().path())
                    .collect();
                names.sort();
                for name in names {
                    visit(&name, root, out);
                }
            }
        }
        let mut out = Vec::new();
        visit(&self.context.root, &self.context.root, &mut out);
        out
    }

    pub(crate) fn blobs_dir(&self) -> PathBuf {
        self.dir.path().join("blobs")
    }
}
