#include "tests/support/encoder.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>

namespace encoder {

namespace {

constexpr std::uint64_t page = 4096;

void append(Bytes& to, std::span<const std::uint8_t> bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

void append_big32(Bytes& to, std::uint64_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) to.push_back(static_cast<std::uint8_t>(value >> shift));
}

void pad4(Bytes& bytes) { bytes.resize((bytes.size() + 3) / 4 * 4); }

Bytes host(std::uint64_t value, std::size_t count) {
    Bytes bytes;
    for (std::size_t i = 0; i < count; ++i) bytes.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    return bytes;
}

std::string hex_token(std::uint64_t token) {
    std::string digits;
    do {
        digits.insert(digits.begin(), "0123456789abcdef"[token % 16]);
        token /= 16;
    } while (token != 0);
    return "0x" + digits;
}

}  // namespace

Bytes host64(std::uint64_t value) { return host(value, 8); }
Bytes host32(std::uint32_t value) { return host(value, 4); }
Bytes text(std::string_view string) {
    Bytes bytes(string.begin(), string.end());
    bytes.push_back(0);
    return bytes;
}

// --- Memory ----------------------------------------------------------------------------------------------------------

void Ram::write(std::uint64_t phys, std::span<const std::uint8_t> bytes) {
    if (phys > size_ || bytes.size() > size_ - phys) throw std::logic_error("write outside RAM");
    while (!bytes.empty()) {
        const std::uint64_t offset = phys % page;
        const std::size_t count = std::min<std::size_t>(bytes.size(), page - offset);
        auto [at, fresh] = pages_.try_emplace(phys / page);
        if (fresh) at->second.fill(0);
        std::memcpy(at->second.data() + offset, bytes.data(), count);
        bytes = bytes.subspan(count);
        phys += count;
    }
}

bool Ram::read(std::uint64_t phys, void* out, std::size_t bytes) const {
    if (phys > size_ || bytes > size_ - phys) return false;
    auto* to = static_cast<std::uint8_t*>(out);
    while (bytes != 0) {
        const std::uint64_t offset = phys % page;
        const std::size_t count = std::min<std::size_t>(bytes, page - offset);
        const auto at = pages_.find(phys / page);
        if (at == pages_.end())
            std::memset(to, 0, count);
        else
            std::memcpy(to, at->second.data() + offset, count);
        to += count;
        phys += count;
        bytes -= count;
    }
    return true;
}

std::function<bool(std::uint64_t, void*, std::size_t)> Ram::source() const {
    return [this](std::uint64_t phys, void* out, std::size_t bytes) { return read(phys, out, bytes); };
}

// --- Trees -----------------------------------------------------------------------------------------------------------

void TreeWriter::begin_node(std::string_view name) {
    append_big32(structure_, 1);
    append(structure_, text(name));
    pad4(structure_);
}

void TreeWriter::property(std::string_view name, std::span<const std::uint8_t> value) {
    append_big32(structure_, 3);
    append_big32(structure_, value.size());
    name_fields_.push_back(structure_.size());
    append_big32(structure_, string_offset(name));
    append(structure_, value);
    pad4(structure_);
}

void TreeWriter::end_node() { append_big32(structure_, 2); }

// A name that ends another one already stored shares its bytes.
std::uint32_t TreeWriter::string_offset(std::string_view name) {
    const std::string wanted = std::string(name) + '\0';
    std::size_t at = strings_.find(wanted);
    if (at == std::string::npos) {
        at = shape_ == TreeShape::sequential ? 0 : strings_.size();
        strings_.insert(at, wanted);
    }
    // Later strings go in front of a sequential tree's, so only the distance from the end stays.
    return static_cast<std::uint32_t>(shape_ == TreeShape::sequential ? strings_.size() - at : at);
}

Bytes TreeWriter::finish(std::size_t buffer_bytes) {
    append_big32(structure_, 9);
    if (shape_ == TreeShape::sequential)
        for (const std::size_t field : name_fields_) {
            std::uint32_t distance = 0;
            for (std::size_t i = 0; i < 4; ++i) distance = distance << 8 | structure_[field + i];
            const std::size_t offset = strings_.size() - distance;
            for (std::size_t i = 0; i < 4; ++i)
                structure_[field + i] = static_cast<std::uint8_t>(offset >> (24 - 8 * i));
        }
    // An edited tree keeps the reserve map where creation put it: on a multiple of 16.
    const std::size_t reserve_at = shape_ == TreeShape::sequential ? 40 : 48;
    const std::size_t structure_at = reserve_at + 16;
    const std::size_t strings_at = structure_at + structure_.size();
    const std::size_t used = strings_at + strings_.size();
    const std::size_t total = shape_ == TreeShape::sequential ? used : buffer_bytes;
    if (total < used) throw std::logic_error("tree does not fit into its buffer");
    Bytes tree;
    append_big32(tree, 0xd00dfeed);
    append_big32(tree, total);
    append_big32(tree, structure_at);
    append_big32(tree, strings_at);
    append_big32(tree, reserve_at);
    append_big32(tree, 17);
    append_big32(tree, 16);
    append_big32(tree, 0);
    append_big32(tree, strings_.size());
    append_big32(tree, structure_.size());
    tree.resize(structure_at);
    append(tree, structure_);
    tree.insert(tree.end(), strings_.begin(), strings_.end());
    tree.resize(total);
    return tree;
}

Bytes root_tree(std::uint64_t map, const std::vector<std::pair<std::string, std::uint64_t>>& subtrees) {
    TreeWriter tree;
    tree.begin_node("");
    tree.property("compatible", text("kho-v1"));
    tree.property("preserved-memory-map", host64(map));
    for (const auto& [name, phys] : subtrees) {
        tree.begin_node(name);
        tree.property("fdt", host64(phys));
        tree.end_node();
    }
    tree.end_node();
    return tree.finish();
}

Bytes memblock_tree(std::span<const Reservation> entries) {
    TreeWriter tree;
    tree.begin_node("");
    tree.property("compatible", text("memblock-v1"));
    for (const Reservation& entry : entries) {
        tree.begin_node(entry.name);
        tree.property("compatible", text("reserve-mem-v1"));
        tree.property("start", host64(entry.start));
        tree.property("size", host64(entry.size));
        tree.end_node();
    }
    tree.end_node();
    return tree.finish();
}

Bytes luo_tree(std::span<const std::pair<std::string, std::uint64_t>> subsystems) {
    TreeWriter tree(TreeShape::in_place);
    tree.begin_node("");
    tree.property("compatible", text("luo-v1"));
    tree.begin_node("subsystems");
    for (const auto& [name, data] : subsystems) tree.use_string(name);
    for (auto entry = subsystems.rbegin(); entry != subsystems.rend(); ++entry)
        tree.property(entry->first, host64(entry->second));
    tree.property("compatible", text("subsystems-v1"));
    tree.end_node();
    tree.end_node();
    return tree.finish(page);
}

Bytes file_tree(const std::map<std::uint64_t, FileEntry>& files) {
    TreeWriter tree;
    tree.begin_node("file-descriptors");
    tree.property("compatible", text("file-descriptors-v1"));
    for (const auto& [token, entry] : files) {
        tree.begin_node(hex_token(token));
        tree.property("compatible", text(entry.compatible));
        tree.property("data", host64(entry.data));
        tree.end_node();
    }
    tree.end_node();
    return tree.finish();
}

Bytes memfd_tree(const File& file) {
    Bytes folios;
    for (const Folio& folio : file.folios) {
        append(folios, host64(folio.pfn << 12 | folio.flags));
        append(folios, host64(folio.index));
    }
    TreeWriter tree;
    tree.begin_node("");
    tree.property("pos", host64(file.pos));
    tree.property("size", host64(file.size));
    tree.property("folios", folios);
    tree.end_node();
    return tree.finish();
}

// --- Map -------------------------------------------------------------------------------------------------------------

std::vector<Block> split(std::uint64_t pfn_begin, std::uint64_t pfn_end) {
    std::vector<Block> blocks;
    for (std::uint64_t pfn = pfn_begin; pfn < pfn_end;) {
        const int fits = std::bit_width(pfn_end - pfn) - 1;
        const int order = pfn == 0 ? fits : std::min(std::countr_zero(pfn), fits);
        blocks.push_back({static_cast<std::uint32_t>(order), pfn});
        pfn += 1ULL << order;
    }
    return blocks;
}

Bytes chunk_page(std::uint64_t next, std::uint32_t order, std::span<const ChunkElement> elements) {
    if (elements.size() > 255) throw std::logic_error("a chunk holds 255 elements");
    Bytes chunk = host64(next);
    append(chunk, host32(order));
    append(chunk, host32(static_cast<std::uint32_t>(elements.size())));
    for (const ChunkElement& element : elements) {
        append(chunk, host64(element.phys_start));
        append(chunk, host64(element.bitmap));
    }
    chunk.resize(page);
    return chunk;
}

std::uint64_t write_map(Ram& ram, const std::set<Block>& blocks, std::uint32_t bitmap_bytes, std::uint64_t& at) {
    std::map<std::uint32_t, std::map<std::uint64_t, Bytes>> bitmaps;  // order -> index -> bits
    const std::uint64_t bits = std::uint64_t{bitmap_bytes} * 8;
    for (const Block& block : blocks) {
        if (block.pfn % (1ULL << block.order) != 0) throw std::logic_error("block is not aligned to its order");
        const std::uint64_t high = block.pfn >> block.order;
        Bytes& bitmap = bitmaps[block.order][high / bits];
        bitmap.resize(bitmap_bytes);
        bitmap[high % bits / 8] |= static_cast<std::uint8_t>(1U << (high % 8));
    }
    struct Pending {
        std::uint32_t order;
        std::vector<ChunkElement> elements;
    };
    std::vector<Pending> chunks;
    for (const auto& [order, by_index] : bitmaps) {
        chunks.push_back({order, {}});
        for (const auto& [index, bitmap] : by_index) {
            if (chunks.back().elements.size() == 255) chunks.push_back({order, {}});
            chunks.back().elements.push_back({(index * bits) << (order + 12), at});
            ram.write(at, bitmap);
            at += bitmap_bytes;
        }
    }
    at = (at + page - 1) / page * page;
    const std::uint64_t first = chunks.empty() ? 0 : at;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        const std::uint64_t next = i + 1 < chunks.size() ? at + page : 0;
        ram.write(at, chunk_page(next, chunks[i].order, chunks[i].elements));
        at += page;
    }
    return first;
}

Bytes vmalloc_descriptor(std::uint64_t chunk, std::uint32_t total_pages, std::uint16_t flags, std::uint16_t order) {
    Bytes bytes = host64(chunk);
    append(bytes, host32(total_pages));
    append(bytes, host(flags, 2));
    append(bytes, host(order, 2));
    return bytes;
}

Bytes vmalloc_chunks(std::uint64_t phys, std::span<const std::uint64_t> blocks) {
    Bytes pages;
    for (bool full = true; full;) {
        const std::size_t count = std::min<std::size_t>(blocks.size(), 511);
        full = count == 511;
        phys += page;
        append(pages, host64(full ? phys : 0));
        for (const std::uint64_t block : blocks.first(count)) append(pages, host64(block));
        pages.resize((pages.size() + page - 1) / page * page);
        blocks = blocks.subspan(count);
    }
    return pages;
}

// --- The whole -------------------------------------------------------------------------------------------------------

namespace {

class HandoverWriter {
public:
    HandoverWriter(Ram& ram, const Content& content, std::uint64_t at) : ram_(ram), content_(content), at_(at) {}

    Handover run() {
        handover_.blocks = content_.blocks;
        if (!content_.reserve_mem.empty()) {
            for (const Reservation& entry : content_.reserve_mem) preserve(entry.start, entry.size);
            subtrees_.emplace_back("memblock", place(memblock_tree(content_.reserve_mem)));
        }
        if (content_.luo) subtrees_.emplace_back("LUO", luo());
        for (const auto& [name, tree] : content_.other_subtrees) subtrees_.emplace_back(name, place(tree));

        handover_.fdt_addr = at_;
        handover_.fdt_size = page;
        preserve(at_, page);
        at_ += page;
        const std::uint64_t map = write_map(ram_, handover_.blocks, content_.bitmap_bytes, at_);
        ram_.write(handover_.fdt_addr, root_tree(map, subtrees_));
        scratch();
        handover_.metadata_end = at_;
        return handover_;
    }

private:
    void preserve(std::uint64_t phys, std::uint64_t bytes) {
        for (const Block& block : split(phys / page, (phys + bytes) / page)) handover_.blocks.insert(block);
    }

    // A tree gets a folio of its own: a power of two pages, aligned to it.
    std::uint64_t place(const Bytes& tree) {
        const std::uint64_t folio = std::bit_ceil(std::max<std::uint64_t>(tree.size(), page));
        at_ = (at_ + folio - 1) / folio * folio;
        const std::uint64_t phys = at_;
        ram_.write(phys, tree);
        preserve(phys, folio);
        at_ += folio;
        return phys;
    }

    std::uint64_t luo() {
        std::map<std::uint64_t, FileEntry> entries;
        for (const auto& [token, file] : content_.files)
            entries[token] = {file.compatible, file.compatible == "memfd-v1" ? place(memfd_tree(file)) : 0};
        std::vector<std::pair<std::string, std::uint64_t>> subsystems = content_.subsystems;
        subsystems.insert(subsystems.begin(), {"file-descriptors", place(file_tree(entries))});
        return place(luo_tree(subsystems));
    }

    void scratch() {
        Bytes array;
        for (const Area& area : content_.scratch) {
            append(array, host64(area.addr));
            append(array, host64(area.size));
        }
        handover_.scratch_addr = at_;
        handover_.scratch_size = array.size();
        ram_.write(at_, array);
        at_ += page;
    }

    Ram& ram_;
    const Content& content_;
    std::uint64_t at_;
    Handover handover_;
    std::vector<std::pair<std::string, std::uint64_t>> subtrees_;
};

}  // namespace

Handover write_handover(Ram& ram, const Content& content, std::uint64_t metadata_base) {
    return HandoverWriter(ram, content, metadata_base).run();
}

}  // namespace encoder
