#include "planner/shard/blocks.h"

namespace shardwright {

int coordinate(const Mesh& mesh, std::int64_t line, AxisId axis) {
  for (AxisId a = 0; a < axis; ++a) line /= mesh.axes()[a].size;
  return static_cast<int>(line % mesh.axes()[axis].size);
}

std::vector<std::int64_t> members_over(const Mesh& mesh, std::int64_t line, AxisSet axes) {
  std::vector<std::int64_t> members = {line};
  std::int64_t apart = 1;
  for (std::size_t a = 0; a < mesh.axes().size(); ++a) {
    const std::int64_t size = mesh.axes()[a].size;
    if (axes >> a & 1) {
      const std::vector<std::int64_t> inner = std::move(members);
      members.clear();
      const int own = coordinate(mesh, line, static_cast<AxisId>(a));
      for (std::int64_t c = 0; c < size; ++c)
        for (std::int64_t member : inner) members.push_back(member + (c - own) * apart);
    }
    apart *= size;
  }
  return members;
}

std::vector<std::int64_t> block_extents(const DimList& dims, const std::vector<std::int64_t>& extents,
                                        const Placement& placement, const Mesh& mesh) {
  std::vector<std::int64_t> result;
  for (int i = 0; i < dims.size(); ++i) result.push_back(extents[dims[i]] / mesh.size_of(placement.dims[i]));
  return result;
}

std::vector<std::int64_t> block_begin(const DimList& dims, const std::vector<std::int64_t>& extents,
                                      const Placement& placement, const Mesh& mesh, std::int64_t line) {
  std::vector<std::int64_t> result;
  for (int i = 0; i < dims.size(); ++i) {
    std::int64_t length = extents[dims[i]], begin = 0;
    for (AxisId a : placement.dims[i]) {
      length /= mesh.axes()[a].size;
      begin += coordinate(mesh, line, a) * length;
    }
    result.push_back(begin);
  }
  return result;
}

FlatPiece flat_piece(const Mesh& mesh, std::int64_t line, AxisSet axes, std::int64_t elements) {
  FlatPiece piece;
  for (std::size_t a = mesh.axes().size(); a-- > 0;) {
    if (!(axes >> a & 1)) continue;
    piece.index = piece.index * mesh.axes()[a].size + coordinate(mesh, line, static_cast<AxisId>(a));
    piece.parts *= mesh.axes()[a].size;
  }
  piece.length = (elements + piece.parts - 1) / piece.parts;
  return piece;
}

std::int64_t product(const std::vector<std::int64_t>& factors) {
  std::int64_t n = 1;
  for (std::int64_t f : factors) n *= f;
  return n;
}

}  // namespace shardwright
