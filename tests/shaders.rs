//! Every kernel without a GPU: what the WGSL declares against what the host believes, and whether it can be lowered to
//! every language that a driver may want.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use naga::back::hlsl::ShaderModel;
use naga::valid::GlobalUse;
use naga::{AddressSpace, Block, Expression, Handle, ScalarKind, ShaderStage, Statement, StorageAccess, TypeInner};
use wgrad::gpu::Access;

use crate::lowered::{Lowered, all_kernels, needs_matrix_units};
use crate::targets::Target;

/// WebGPU's limits, which devices are opened with at least.
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16_384;
const MAX_STORAGE_BUFFERS: usize = 8;
/// Bytes of uniform memory that a dispatch sees.
const MAX_PARAMS_BYTES: usize = 256;

type Check = Result<(), String>;

impl Lowered {
    fn entry(&self) -> Result<(usize, &naga::EntryPoint), String> {
        let found = self.module.entry_points.iter().enumerate().find(|(_, e)| e.name == self.kernel.entry);
        found.filter(|(_, e)| e.stage == ShaderStage::Compute).ok_or_else(|| "no such compute entry point".to_owned())
    }

    /// The global variables that the entry point uses, and how.
    fn used(&self) -> Result<Vec<(&naga::GlobalVariable, GlobalUse)>, String> {
        let info = self.info.get_entry_point(self.entry()?.0);
        let all = self.module.global_variables.iter().map(|(handle, variable)| (variable, info[handle]));
        Ok(all.filter(|(_, used)| !used.is_empty()).collect())
    }
}

/// Runs `check` on every kernel and reports all that fail.
#[track_caller]
fn each_kernel(check: impl Fn(&Lowered) -> Check) {
    let run = |kernel| {
        Lowered::new(kernel).and_then(|lowered| check(&lowered)).err().map(|e| format!("{}: {e}", kernel.name))
    };
    let kernels = all_kernels();
    let failures: Vec<_> = kernels.iter().copied().filter_map(run).collect();
    assert!(failures.is_empty(), "{} of {} kernels:\n{}", failures.len(), kernels.len(), failures.join("\n"));
}

fn expect(ok: bool, message: impl FnOnce() -> String) -> Check {
    if ok { Ok(()) } else { Err(message()) }
}

/// A reader of the WGSL knows by a function's name which library it is from; which libraries a kernel is joined with stands in its
/// `sources` alone.
#[test]
fn functions_of_libraries_are_named_after_them() {
    let mut wrong = BTreeSet::new();
    for source in all_kernels().iter().flat_map(|kernel| kernel.sources) {
        let Some(file) = source.name().strip_prefix("lib/") else { continue };
        let library = file.split(['_', '.']).next().unwrap();
        let functions = source.text().lines().filter_map(|line| line.strip_prefix("fn ")?.split('(').next());
        wrong.extend(
            functions.filter(|name| !name.starts_with(library)).map(|name| format!("{name} of {}", source.name())),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Group 0 has exactly the declared bindings in order, each used as declared, and group 1 only the parameters.
#[test]
fn bindings_are_as_declared() {
    each_kernel(|lowered| {
        let mut storage = BTreeMap::new();
        for (variable, used) in lowered.used()? {
            let name = variable.name.as_deref().unwrap_or("?");
            let binding = variable.binding.map(|b| (b.group, b.binding));
            match (variable.space, binding) {
                (AddressSpace::Storage { access }, Some((0, binding))) => {
                    let declared = if access.contains(StorageAccess::STORE) { Access::Write } else { Access::Read };
                    let writes = used.intersects(GlobalUse::WRITE | GlobalUse::ATOMIC);
                    expect(writes == (declared == Access::Write), || {
                        format!("{name}: {declared:?}, but used as {used:?}")
                    })?;
                    expect(storage.insert(binding, declared).is_none(), || {
                        format!("two variables at binding {binding}")
                    })?;
                }
                (AddressSpace::Uniform, Some((1, 0))) | (AddressSpace::WorkGroup | AddressSpace::Private, None) => {}
                other => return Err(format!("{name}: unexpected {other:?}")),
            }
        }
        let expected: BTreeMap<_, _> = (0u32..).zip(lowered.kernel.bindings.iter().copied()).collect();
        expect(storage.len() <= MAX_STORAGE_BUFFERS, || format!("{} storage buffers", storage.len()))?;
        expect(storage == expected, || format!("WGSL {storage:?}, host {expected:?}"))
    });
}

/// `Params` has the host's fields: names, types, offsets.
#[test]
fn params_are_as_declared() {
    each_kernel(|lowered| {
        let used = lowered.used()?;
        let uniform = used.iter().find(|(variable, _)| variable.space == AddressSpace::Uniform);
        let (variable, _) = uniform.ok_or("does not use its Params")?;
        let ty = &lowered.module.types[variable.ty];
        let TypeInner::Struct { members, span } = &ty.inner else { return Err("Params is no struct".to_owned()) };
        expect(ty.name.as_deref() == Some("Params"), || format!("the uniform is a {:?}, not Params", ty.name))?;
        let mut fields = Vec::new();
        for (i, member) in members.iter().enumerate() {
            let name = member.name.clone().unwrap_or_default();
            let TypeInner::Scalar(scalar) = lowered.module.types[member.ty].inner else {
                return Err(format!("{name} is no scalar"));
            };
            let kind = match scalar.kind {
                ScalarKind::Uint => "u32",
                ScalarKind::Sint => "i32",
                ScalarKind::Float => "f32",
                other => return Err(format!("{name} is a {other:?}")),
            };
            let right = scalar.width == 4 && member.offset as usize == 4 * i;
            expect(right, || format!("{name}: {} bytes at offset {}", scalar.width, member.offset))?;
            fields.push((name, kind));
        }
        let expected: Vec<_> = lowered.kernel.params.iter().map(|(name, ty)| ((*name).to_owned(), *ty)).collect();
        expect(fields == expected, || format!("WGSL {fields:?}, host {expected:?}"))?;
        expect(*span as usize == 4 * fields.len() && *span as usize <= MAX_PARAMS_BYTES, || {
            format!("{span} bytes of Params")
        })
    });
}

#[test]
fn workgroups_fit_every_device() {
    each_kernel(|lowered| {
        let [x, y, z] = lowered.entry()?.1.workgroup_size;
        expect(x * y * z <= MAX_INVOCATIONS && z <= 64, || format!("a workgroup of {x}x{y}x{z}"))?;
        let workgroup = lowered.used()?.into_iter().filter(|(v, _)| v.space == AddressSpace::WorkGroup);
        let size = |v: &naga::GlobalVariable| lowered.module.types[v.ty].inner.size(lowered.module.to_ctx());
        let bytes: u32 = workgroup.map(|(v, _)| size(v).next_multiple_of(16)).sum();
        expect(bytes <= MAX_WORKGROUP_BYTES, || format!("{bytes} bytes of workgroup memory"))
    });
}

/// Of vectors that invocations share none is written in part. By the rules of WGSL and of Metal that may read and write all of it, and
/// so undo what a neighbour writes.
#[test]
fn shared_vectors_are_written_whole() {
    each_kernel(|lowered| {
        let Lowered { module, info, .. } = lowered;
        let functions = module.functions.iter().map(|(handle, function)| (function, &info[handle]));
        let entries = module.entry_points.iter().enumerate();
        let entries = entries.map(|(i, entry)| (&entry.function, info.get_entry_point(i)));
        for (function, types) in functions.chain(entries) {
            let mut pointers = Vec::new();
            stored_to(&function.body, &mut pointers);
            let in_part = |pointer: &Handle<Expression>| {
                let (Expression::Access { base, .. } | Expression::AccessIndex { base, .. }) =
                    function.expressions[*pointer]
                else {
                    return false;
                };
                let space = match *types[base].ty.inner_with(&module.types) {
                    TypeInner::Pointer { base, space } => {
                        let is_vector = matches!(module.types[base].inner, TypeInner::Vector { .. });
                        is_vector.then_some(space)
                    }
                    TypeInner::ValuePointer { size: Some(_), space, .. } => Some(space),
                    _ => None,
                };
                matches!(space, Some(AddressSpace::WorkGroup | AddressSpace::Storage { .. }))
            };
            let found = pointers.iter().filter(|pointer| in_part(pointer)).count();
            expect(found == 0, || format!("{:?} writes parts of vectors in {found} places", function.name))?;
        }
        Ok(())
    });
}

/// Where a block's statements store to.
fn stored_to(block: &Block, pointers: &mut Vec<Handle<Expression>>) {
    for statement in block {
        match statement {
            Statement::Store { pointer, .. } => pointers.push(*pointer),
            Statement::Block(inner) => stored_to(inner, pointers),
            Statement::If { accept, reject, .. } => {
                [accept, reject].iter().for_each(|inner| stored_to(inner, pointers));
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| stored_to(&case.body, pointers)),
            Statement::Loop { body, continuing, .. } => {
                [body, continuing].iter().for_each(|inner| stored_to(inner, pointers));
            }
            _ => {}
        }
    }
}

/// DXC has namespaces of these names, and naga 30 does not know of it.
#[test]
fn globals_are_named_as_no_namespace() {
    each_kernel(|lowered| {
        let names = lowered.module.global_variables.iter().filter_map(|(_, variable)| variable.name.as_deref());
        let taken: Vec<_> = names.filter(|name| ["dx", "std"].contains(name)).collect();
        expect(taken.is_empty(), || format!("{taken:?}"))
    });
}

/// Apple's compiler makes wrong code of kernels with matrix units that declare 32 invocations or fewer (docs/portability.md).
#[test]
fn kernels_with_matrix_units_have_64_invocations() {
    each_kernel(|lowered| {
        let invocations: u32 = lowered.entry()?.1.workgroup_size.iter().product();
        let safe = invocations >= 64 || !needs_matrix_units(lowered.kernel);
        expect(safe, || format!("{invocations} invocations"))
    });
}

/// The oldest and the newest that wgpu asks for, where there is more than one, and where half precision and matrix units begin.
const TARGETS: [Target; 9] = [
    Target::SpirV(1, 0),
    Target::SpirV(1, 6),
    Target::Metal(2, 0),
    Target::Metal(2, 3),
    Target::Metal(3, 0),
    Target::Hlsl(ShaderModel::V5_1),
    Target::Hlsl(ShaderModel::V6_0),
    Target::Hlsl(ShaderModel::V6_2),
    Target::Gles,
];

/// Each language in each version, but where no device that takes it is given the kernel.
#[test]
fn lowers_to_every_language() {
    each_kernel(|lowered| {
        let mut wanted = TARGETS.into_iter().filter(|target| target.lacks(lowered.kernel).is_none());
        wanted.try_for_each(|target| {
            let written = target.write(lowered).map_err(|e| format!("{target:?}: {e}"))?;
            expect(!written.text.is_empty() && !written.entry.is_empty(), || format!("{target:?}: nothing"))
        })
    });
}

#[test]
fn names_are_unique() {
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = all_kernels().iter().map(|k| k.name).filter(|name| !seen.insert(*name)).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// Caches tell modules apart by the names of their files.
#[test]
fn every_file_is_used_and_free_of_directives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let files: BTreeSet<_> =
        files.iter().map(|path| path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/")).collect();
    let kernels = all_kernels();
    let sources: Vec<_> = kernels.iter().flat_map(|kernel| kernel.sources).collect();
    let used: BTreeSet<_> = sources.iter().map(|source| source.name().to_owned()).collect();
    assert_eq!(files, used, "files below shaders/ and files that kernels name");
    for source in sources {
        let directive = source
            .text()
            .lines()
            .find(|line| ["enable ", "requires ", "diagnostic"].iter().any(|word| line.trim_start().starts_with(word)));
        assert_eq!(directive, None, "{}: directives are the joiner's", source.name());
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
