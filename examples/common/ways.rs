//! The ways to drop tokens that a program knows, and what a run is compared with: one list makes both.

/// Makes `DropKind` and `Rival` of the ways that every program has, and of a program's own: each has what is said of it
/// beside `--drop`, its name, and what is said beside `--compare`.
macro_rules! ways {
    ($($(#[doc = $doc:literal])+ $Way:ident: $name:literal, $rival:literal;)+) => {
        /// Which tokens a run drops.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum DropKind {
            /// None: full length.
            None,
            /// Some in each LTD block, ever fewer (random-LTD).
            RandomLtd,
            /// As many in each LTD block throughout: random-LTD that keeps its start length.
            Constant,
            $($(#[doc = $doc])+ $Way,)+
        }

        impl $crate::training::comparison::Way for DropKind {
            const NONE: Self = DropKind::None;

            fn name(self) -> &'static str {
                match self {
                    DropKind::None => $crate::training::comparison::FULL_LENGTH,
                    DropKind::RandomLtd => "random-ltd",
                    DropKind::Constant => "constant",
                    $(DropKind::$Way => $name,)+
                }
            }
        }

        /// What the run is compared with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Rival {
            /// Full length.
            None,
            /// random-LTD with its schedule.
            RandomLtd,
            /// random-LTD that keeps its start length.
            Constant,
            $(#[doc = $rival] $Way,)+
            /// Full length, for as many steps as take the time of the first run.
            EqualTime,
        }

        impl From<Rival> for $crate::training::comparison::Arm<DropKind> {
            fn from(rival: Rival) -> Self {
                match rival {
                    Rival::None => Self::Drop(DropKind::None),
                    Rival::RandomLtd => Self::Drop(DropKind::RandomLtd),
                    Rival::Constant => Self::Drop(DropKind::Constant),
                    $(Rival::$Way => Self::Drop(DropKind::$Way),)+
                    Rival::EqualTime => Self::EqualTime,
                }
            }
        }
    };
}

pub(crate) use ways;
