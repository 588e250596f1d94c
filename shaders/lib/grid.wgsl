// grid_group: the number of a workgroup in a grid that Grid::linear has folded into two dimensions.

fn grid_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
