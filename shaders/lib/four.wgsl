// Rows that `lanes` invocations side by side work on, a team of a workgroup of 64; `lanes` is a power of two from 8 to 64.
// The invocation of rank r has the items r, r + lanes, ... and keeps its first four in registers, as a Four: a row of up to
// 4 lanes items is read once. What a wider row has behind them is read again for each pass.
// Item is float or vec4 (tiles/).

struct Four { a: Item, b: Item, c: Item, d: Item }

// An invocation's team and rank.
struct FourSeat { team: u32, rank: u32 }

fn four_seat(lane: u32, lanes: u32) -> FourSeat {
    return FourSeat(lane >> countTrailingZeros(lanes), lane & (lanes - 1u));
}

// Teams of a workgroup.
fn four_teams(lanes: u32) -> u32 {
    return 64u >> countTrailingZeros(lanes);
}

// The numbers of the first four items. The next one is the last of these + lanes.
fn four_places(rank: u32, lanes: u32) -> vec4<u32> {
    return rank + lanes * vec4<u32>(0u, 1u, 2u, 3u);
}

fn four_total(v: Four) -> Item {
    return (v.a + v.b) + (v.c + v.d);
}

fn four_mul(v: Four, w: Four) -> Four {
    return Four(v.a * w.a, v.b * w.b, v.c * w.c, v.d * w.d);
}

fn four_add(v: Four, w: Four) -> Four {
    return Four(v.a + w.a, v.b + w.b, v.c + w.c, v.d + w.d);
}
