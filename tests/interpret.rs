//! Counts the rounds of a kernel's loops by running its control flow on the CPU: whole numbers and booleans are computed,
//! everything that comes from a buffer or is a float is unknown, and a branch on what is unknown is taken by chance. Samples'
//! lengths alone, at which loops end, are drawn.
//!
//! Rounds are counted as Mesa's llvmpipe does, for invocations side by side: each loop counts as often as the slowest of them
//! needs, the round that finds it at its end included, and a loop that they all pass by counts once.

use std::collections::HashMap;

use naga::{
    AddressSpace, BinaryOperator as Op, Binding, Block, BuiltIn, Expression, Function, Handle, Literal, LocalVariable,
    MathFunction, RelationalFunction, ScalarKind, Statement, TypeInner, UnaryOperator,
};

use crate::lowered::Lowered;

/// One dispatch.
pub struct Dispatch<'a> {
    pub lowered: &'a Lowered,
    pub params: &'a [u32],
    pub groups: [u32; 3],
}

/// Of each execution of a loop, by a hash of its place and of the rounds that it is in, the most rounds of an invocation.
#[derive(Default)]
pub struct Rounds(HashMap<u64, u64>);

impl Rounds {
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    fn at_least(&mut self, key: u64, rounds: u64) {
        let known = self.0.entry(key).or_default();
        *known = rounds.max(*known);
    }
}

fn mix(key: u64, value: u64) -> u64 {
    (key ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// What tells a statement from all others.
fn place_of(statement: &Statement) -> u64 {
    std::ptr::from_ref(statement) as u64
}

#[derive(Clone, Debug)]
enum Value {
    Unknown,
    Word(u32),
    Parts(Vec<Value>),
    /// A field of `Params`.
    Params(Vec<usize>),
    /// A part of one of the function's own variables.
    Local(Handle<LocalVariable>, Vec<usize>),
    /// The samples' lengths, or one of them.
    Lengths,
}

impl Value {
    fn part(&self, index: usize) -> Value {
        let longer = |path: &[usize]| [path, &[index]].concat();
        match self {
            Value::Parts(parts) => parts.get(index).cloned().unwrap_or(Value::Unknown),
            Value::Params(path) => Value::Params(longer(path)),
            Value::Local(variable, path) => Value::Local(*variable, longer(path)),
            Value::Lengths => Value::Lengths,
            Value::Word(_) | Value::Unknown => Value::Unknown,
        }
    }

    /// Part by part, a single word beside each part.
    fn zip(&self, other: &Value, f: &impl Fn(u32, u32) -> u32) -> Value {
        match (self, other) {
            (Value::Word(a), Value::Word(b)) => Value::Word(f(*a, *b)),
            (Value::Parts(a), Value::Parts(b)) => Value::Parts(a.iter().zip(b).map(|(a, b)| a.zip(b, f)).collect()),
            (Value::Parts(a), Value::Word(_)) => Value::Parts(a.iter().map(|a| a.zip(other, f)).collect()),
            (Value::Word(_), Value::Parts(b)) => Value::Parts(b.iter().map(|b| self.zip(b, f)).collect()),
            _ => Value::Unknown,
        }
    }
}

/// How a block was left.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
    Return,
}

/// One invocation.
pub struct Invocation<'a> {
    dispatch: &'a Dispatch<'a>,
    rounds: &'a mut Rounds,
    group: [u32; 3],
    lane: u32,
    chance: u64,
}

/// A function under way.
struct Frame<'a> {
    function: &'a Function,
    arguments: Vec<Value>,
    /// By the number of the expression.
    values: Vec<Option<Value>>,
    variables: HashMap<Handle<LocalVariable>, Value>,
    result: Value,
}

impl<'a> Invocation<'a> {
    /// Runs an invocation; `seed` is for what is left to chance.
    pub fn run(dispatch: &'a Dispatch<'a>, group: [u32; 3], lane: u32, seed: u64, rounds: &'a mut Rounds) {
        let module = &dispatch.lowered.module;
        let entry = module.entry_points.iter().find(|e| e.name == dispatch.lowered.kernel.entry).unwrap();
        let mut invocation = Invocation { dispatch, rounds, group, lane, chance: seed };
        let builtin = |binding: &Option<Binding>| match binding {
            Some(Binding::BuiltIn(BuiltIn::WorkGroupId)) => words(&invocation.group),
            Some(Binding::BuiltIn(BuiltIn::NumWorkGroups)) => words(&dispatch.groups),
            Some(Binding::BuiltIn(BuiltIn::LocalInvocationIndex)) => Value::Word(invocation.lane),
            other => panic!("an argument {other:?}"),
        };
        let arguments = entry.function.arguments.iter().map(|a| builtin(&a.binding)).collect();
        invocation.call(&entry.function, arguments, 1);
    }

    fn call(&mut self, function: &'a Function, arguments: Vec<Value>, key: u64) -> Value {
        let mut frame = Frame {
            function,
            arguments,
            values: vec![None; function.expressions.len()],
            variables: HashMap::new(),
            result: Value::Unknown,
        };
        for (handle, variable) in function.local_variables.iter() {
            let value = match variable.init {
                Some(init) => self.value(&mut frame, init),
                None => self.zero(variable.ty),
            };
            frame.variables.insert(handle, value);
        }
        self.block(&mut frame, &function.body, key);
        frame.result
    }

    fn block(&mut self, frame: &mut Frame<'a>, block: &'a Block, key: u64) -> Flow {
        for (i, statement) in block.iter().enumerate() {
            let flow = self.statement(frame, statement, key);
            if flow != Flow::Next {
                block.iter().skip(i + 1).for_each(|rest| self.pass_by(rest, key));
                return flow;
            }
        }
        Flow::Next
    }

    fn statement(&mut self, frame: &mut Frame<'a>, statement: &'a Statement, key: u64) -> Flow {
        let here = mix(key, place_of(statement));
        match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    frame.values[handle.index()] = None;
                    self.value(frame, handle);
                }
            }
            Statement::Block(block) => return self.block(frame, block, key),
            Statement::If { condition, accept, reject } => {
                let taken = match self.value(frame, *condition) {
                    Value::Word(word) => word != 0,
                    _ => self.toss(),
                };
                let (taken, other) = if taken { (accept, reject) } else { (reject, accept) };
                // What the compiler knows not to be taken is not there.
                if !matches!(frame.function.expressions[*condition], Expression::Literal(_)) {
                    other.iter().for_each(|statement| self.pass_by(statement, key));
                }
                return self.block(frame, taken, key);
            }
            Statement::Loop { body, continuing, break_if } => {
                for round in 1.. {
                    self.rounds.at_least(here, round);
                    let inside = mix(here, round);
                    match self.block(frame, body, inside) {
                        Flow::Break => break,
                        Flow::Return => return Flow::Return,
                        Flow::Next | Flow::Continue => {}
                    }
                    self.block(frame, continuing, inside);
                    let ends = break_if.map(|condition| self.value(frame, condition));
                    if matches!(ends, Some(Value::Word(word)) if word != 0) {
                        break;
                    }
                }
            }
            Statement::Break => return Flow::Break,
            Statement::Continue => return Flow::Continue,
            Statement::Return { value } => {
                frame.result = value.map_or(Value::Unknown, |value| self.value(frame, value));
                return Flow::Return;
            }
            Statement::Store { pointer, value } => {
                let value = self.value(frame, *value);
                if let Value::Local(variable, path) = self.value(frame, *pointer) {
                    put(frame.variables.get_mut(&variable).unwrap(), &path, value);
                }
            }
            Statement::Call { function, arguments, result } => {
                // What a callee may change through a pointer is floats.
                let by_value = |value| if matches!(value, Value::Local(..)) { Value::Unknown } else { value };
                let arguments = arguments.iter().map(|a| by_value(self.value(frame, *a))).collect();
                let value = self.call(&self.dispatch.lowered.module.functions[*function], arguments, here);
                if let Some(result) = result {
                    frame.values[result.index()] = Some(value);
                }
            }
            Statement::ControlBarrier(_) | Statement::Atomic { .. } | Statement::CooperativeStore { .. } => {}
            other => panic!("a statement {other:?}"),
        }
        Flow::Next
    }

    /// Counts the loops of what others run and this invocation does not: once each.
    fn pass_by(&mut self, statement: &'a Statement, key: u64) {
        let here = mix(key, place_of(statement));
        let (blocks, inside): (Vec<&'a Block>, u64) = match statement {
            Statement::Block(block) => (vec![block], key),
            Statement::If { accept, reject, .. } => (vec![accept, reject], key),
            Statement::Loop { body, continuing, .. } => {
                self.rounds.at_least(here, 1);
                (vec![body, continuing], mix(here, 1))
            }
            Statement::Call { function, .. } => (vec![&self.dispatch.lowered.module.functions[*function].body], here),
            _ => return,
        };
        blocks.into_iter().flat_map(|block| block.iter()).for_each(|statement| self.pass_by(statement, inside));
    }

    fn toss(&mut self) -> bool {
        self.chance = mix(self.chance, 0x1234_5678_9ABC_DEF1);
        self.chance >> 63 == 0
    }

    fn zero(&self, ty: Handle<naga::Type>) -> Value {
        let whole = |kind| matches!(kind, ScalarKind::Uint | ScalarKind::Bool);
        match self.dispatch.lowered.module.types[ty].inner {
            TypeInner::Scalar(scalar) if whole(scalar.kind) => Value::Word(0),
            TypeInner::Vector { size, scalar } if whole(scalar.kind) => {
                Value::Parts(vec![Value::Word(0); size as usize])
            }
            _ => Value::Unknown,
        }
    }

    fn value(&mut self, frame: &mut Frame<'a>, handle: Handle<Expression>) -> Value {
        if let Some(value) = &frame.values[handle.index()] {
            return value.clone();
        }
        let value = self.evaluate(frame, handle);
        frame.values[handle.index()] = Some(value.clone());
        value
    }

    fn evaluate(&mut self, frame: &mut Frame<'a>, handle: Handle<Expression>) -> Value {
        match &frame.function.expressions[handle] {
            Expression::Literal(Literal::U32(word)) => Value::Word(*word),
            Expression::Literal(Literal::Bool(truth)) => Value::Word(u32::from(*truth)),
            Expression::Constant(constant) => {
                let module = &self.dispatch.lowered.module;
                constant_value(module, module.constants[*constant].init)
            }
            Expression::ZeroValue(ty) => self.zero(*ty),
            Expression::Compose { components, .. } => {
                let parts: Vec<_> = components.iter().map(|c| self.value(frame, *c)).collect();
                let known = parts.iter().any(|part| !matches!(part, Value::Unknown));
                if known { Value::Parts(parts) } else { Value::Unknown }
            }
            Expression::Access { base, index } => match (self.value(frame, *base), self.value(frame, *index)) {
                (base, Value::Word(index)) => base.part(index as usize),
                _ => Value::Unknown,
            },
            Expression::AccessIndex { base, index } => self.value(frame, *base).part(*index as usize),
            Expression::Splat { size, value } => match self.value(frame, *value) {
                Value::Unknown => Value::Unknown,
                value => Value::Parts(vec![value; *size as usize]),
            },
            Expression::Swizzle { size, vector, pattern } => {
                let vector = self.value(frame, *vector);
                Value::Parts(pattern.iter().take(*size as usize).map(|c| vector.part(*c as usize)).collect())
            }
            Expression::FunctionArgument(i) => frame.arguments[*i as usize].clone(),
            Expression::GlobalVariable(variable) => {
                let variable = &self.dispatch.lowered.module.global_variables[*variable];
                match (variable.space, variable.name.as_deref()) {
                    (AddressSpace::Uniform, _) => Value::Params(Vec::new()),
                    (_, Some("lengths")) => Value::Lengths,
                    _ => Value::Unknown,
                }
            }
            Expression::LocalVariable(variable) => Value::Local(*variable, Vec::new()),
            Expression::Load { pointer } => match self.value(frame, *pointer) {
                Value::Params(path) => match self.dispatch.lowered.kernel.params.get(path[0]) {
                    Some((_, "u32")) => Value::Word(self.dispatch.params[path[0]]),
                    _ => Value::Unknown,
                },
                // Any number: kernels take no more than there is.
                Value::Lengths => {
                    self.toss();
                    Value::Word((self.chance >> 32) as u32 % 80)
                }
                Value::Local(variable, path) => {
                    path.iter().fold(frame.variables[&variable].clone(), |value, i| value.part(*i))
                }
                _ => Value::Unknown,
            },
            Expression::Unary { op, expr } => {
                let f = |word: u32, _| match op {
                    UnaryOperator::LogicalNot => u32::from(word == 0),
                    UnaryOperator::BitwiseNot => !word,
                    UnaryOperator::Negate => word.wrapping_neg(),
                };
                self.value(frame, *expr).zip(&Value::Word(0), &f)
            }
            Expression::Binary { op, left, right } => {
                let (left, right) = (self.value(frame, *left), self.value(frame, *right));
                left.zip(&right, &|a, b| binary(*op, a, b))
            }
            Expression::Select { condition, accept, reject } => {
                let (accept, reject) = (self.value(frame, *accept), self.value(frame, *reject));
                match self.value(frame, *condition) {
                    Value::Word(word) => {
                        if word != 0 {
                            accept
                        } else {
                            reject
                        }
                    }
                    Value::Parts(all) => {
                        let pick = |(i, condition): (usize, &Value)| match condition {
                            Value::Word(word) => {
                                if *word != 0 {
                                    accept.part(i)
                                } else {
                                    reject.part(i)
                                }
                            }
                            _ => Value::Unknown,
                        };
                        Value::Parts(all.iter().enumerate().map(pick).collect())
                    }
                    _ => {
                        if self.toss() {
                            accept
                        } else {
                            reject
                        }
                    }
                }
            }
            Expression::Relational { fun, argument } => match (fun, self.value(frame, *argument)) {
                (RelationalFunction::All, Value::Parts(parts)) => all(&parts),
                _ => Value::Unknown,
            },
            Expression::Math { fun, arg, arg1, .. } => {
                let a = self.value(frame, *arg);
                let b = arg1.map_or(Value::Word(0), |b| self.value(frame, b));
                match fun {
                    MathFunction::Min => a.zip(&b, &|a, b| a.min(b)),
                    MathFunction::Max => a.zip(&b, &|a, b| a.max(b)),
                    MathFunction::CountTrailingZeros => a.zip(&b, &|a, _| a.trailing_zeros()),
                    _ => Value::Unknown,
                }
            }
            Expression::As { expr, kind: ScalarKind::Uint | ScalarKind::Bool, .. } => self.value(frame, *expr),
            _ => Value::Unknown,
        }
    }
}

fn words(all: &[u32]) -> Value {
    Value::Parts(all.iter().map(|word| Value::Word(*word)).collect())
}

fn all(parts: &[Value]) -> Value {
    let word = |value: &Value| if let Value::Word(word) = value { Some(*word != 0) } else { None };
    let known: Option<Vec<bool>> = parts.iter().map(word).collect();
    known.map_or(Value::Unknown, |known| Value::Word(u32::from(known.into_iter().all(|truth| truth))))
}

/// Of a module's constant.
fn constant_value(module: &naga::Module, init: Handle<Expression>) -> Value {
    match &module.global_expressions[init] {
        Expression::Literal(Literal::U32(word)) => Value::Word(*word),
        Expression::Literal(Literal::Bool(truth)) => Value::Word(u32::from(*truth)),
        Expression::Compose { components, .. } => {
            Value::Parts(components.iter().map(|c| constant_value(module, *c)).collect())
        }
        Expression::Splat { size, value } => Value::Parts(vec![constant_value(module, *value); *size as usize]),
        _ => Value::Unknown,
    }
}

fn put(value: &mut Value, path: &[usize], new: Value) {
    match (path, &mut *value) {
        ([], _) => *value = new,
        ([first, rest @ ..], Value::Parts(parts)) if *first < parts.len() => put(&mut parts[*first], rest, new),
        _ => *value = Value::Unknown,
    }
}

fn binary(op: Op, a: u32, b: u32) -> u32 {
    match op {
        Op::Add => a.wrapping_add(b),
        Op::Subtract => a.wrapping_sub(b),
        Op::Multiply => a.wrapping_mul(b),
        Op::Divide => a.checked_div(b).unwrap_or(a),
        Op::Modulo => a.checked_rem(b).unwrap_or(0),
        Op::Equal => u32::from(a == b),
        Op::NotEqual => u32::from(a != b),
        Op::Less => u32::from(a < b),
        Op::LessEqual => u32::from(a <= b),
        Op::Greater => u32::from(a > b),
        Op::GreaterEqual => u32::from(a >= b),
        Op::And | Op::LogicalAnd => a & b,
        Op::ExclusiveOr => a ^ b,
        Op::InclusiveOr | Op::LogicalOr => a | b,
        Op::ShiftLeft => a.wrapping_shl(b),
        Op::ShiftRight => a.wrapping_shr(b),
    }
}
