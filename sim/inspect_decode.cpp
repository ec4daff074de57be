#include "sim/inspect_decode.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <set>

#include "kho/fdt.hpp"
#include "luo/abi/devices.hpp"
#include "luo/abi/trees.hpp"
#include "sim/inspect_devices.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

using kho::FdtReader;

std::string tree_text(const FdtReader& tree) {
    return printable_blob({reinterpret_cast<const char*>(tree.blob().data()), tree.blob().size()});
}

class Decoder {
public:
    Decoder(const PhysicalMemory& ram, Inspected& out) : ram_(ram), out_(out) {}

    void find_root(std::optional<u64> given) {
        if (given) {
            out_.root = PhysAddr{*given};
            return;
        }
        const Pfn end{ram_.bytes_max() >> page_shift};
        for (Pfn pfn = ram_.next_written(Pfn{0}, end); pfn < end; pfn = ram_.next_written(pfn + 1, end)) {
            if (!ram_.contains(pfn.phys(), page_bytes) || ram_.read<u32>(pfn.phys()) != 0xedfe0dd0) continue;
            const auto tree = FdtReader::open(ram_, pfn.phys(), page_bytes);
            if (tree && tree->check_compatible(FdtReader::root, "kho-v1") == 0) {
                out_.root = pfn.phys();
                return;
            }
        }
    }

    void decode() {
        const auto root = FdtReader::open(ram_, *out_.root, page_bytes);
        if (!root) {
            problem(fmt::format("{:#x}: no devicetree: {}", out_.root->raw, kho::fdt_error_text(root.error())));
            return;
        }
        out_.trees.push_back({"root", *out_.root, root->bytes(), tree_text(*root)});
        own(phys_range(*out_.root, page_bytes), "KHO root tree");
        if (root->check_compatible(FdtReader::root, "kho-v1") != 0)
            problem(fmt::format("{:#x}: the root tree is not compatible with \"kho-v1\"", out_.root->raw));
        decode_map(*root);
        for (int child = root->first_subnode(FdtReader::root); child >= 0; child = root->next_subnode(child))
            decode_subtree(root->node_name(child), root->property_u64(child, "fdt"));
    }

    void decode_scratch(u64 at, u64 bytes) {
        for (u64 offset = 0; offset + 16 <= bytes; offset += 16) {
            if (!ram_.contains(PhysAddr{at + offset}, 16)) {
                problem(fmt::format("{:#x}: the scratch array lies outside RAM", at + offset));
                return;
            }
            const PhysRange area = phys_range(PhysAddr{ram_.read<u64>(PhysAddr{at + offset})},
                                              ram_.read<u64>(PhysAddr{at + offset + 8}));
            out_.scratch.push_back(area);
            if (!area.empty()) own(area, "scratch");
        }
        own(phys_range(PhysAddr{at}, align_up(bytes, page_bytes)), "scratch array");
    }

private:
    void problem(std::string text) { out_.problems.push_back(std::move(text)); }
    void own(PhysRange range, std::string name) { out_.owners.push_back({range, std::move(name)}); }

    struct Reading {
        kho::MapDirectory directory;
        std::vector<kho::BlockRun> runs;
        std::optional<kho::MapDamage> damage;
        bool holds_root = false;
    };
    Reading read_map(const kho::Edition& edition, PhysAddr first) {
        Reading reading;
        reading.directory = kho::read_map_directory(ram_, edition, first);
        kho::MapDecoder decoder(ram_, edition);
        reading.damage = decoder.decode(reading.directory, [&](const kho::BlockRun& run) {
            reading.runs.push_back(run);
            if (run.order.raw == 0 && run.frames().contains(out_.root->pfn())) reading.holds_root = true;
        });
        return reading;
    }

    /// Nothing in a map says how long its bitmaps are. Those of a page begin at pages and at what a page of bits
    /// covers, and have bits behind their first 512 bytes, where short ones would have other bitmaps of the list or
    /// nothing.
    bool only_large_fits(const kho::MapDirectory& directory) const {
        constexpr u64 small_bytes = 512;
        for (const kho::MapElement& element : directory.elements) {
            if (!element.bitmap.page_aligned()) return false;
            if (element.phys_start.raw % (page_bytes * 8 * element.order.bytes()) != 0) return false;
        }
        for (const kho::MapElement& element : directory.elements) {
            if (!ram_.contains(element.bitmap, page_bytes)) return false;
            const auto content = ram_.read_vector(element.bitmap, page_bytes);
            const auto behind = content.begin() + static_cast<i64>(small_bytes);
            if (std::any_of(behind, content.end(), [](std::byte byte) { return byte != std::byte{0}; })) return true;
        }
        return false;
    }

    void decode_map(const FdtReader& root) {
        const auto first = root.property_u64(FdtReader::root, "preserved-memory-map");
        if (!first) {
            problem(fmt::format("{:#x}: the root tree has no preserved-memory-map of 8 bytes", out_.root->raw));
            return;
        }
        out_.map_address = *first;
        if (*first == 0) return;
        Reading small = read_map(kho::edition_for_profile("luo-v3"), PhysAddr{*first});
        Reading large = read_map(kho::edition_for_profile("linux-6.18"), PhysAddr{*first});
        const bool use_large = (large.holds_root && !small.holds_root) || (small.damage && !large.damage) ||
                               (!large.damage && only_large_fits(large.directory));
        Reading& chosen = use_large ? large : small;
        out_.bitmap_bytes = use_large ? 4096 : 512;
        if (chosen.damage) problem(fmt::format("{:#x}: map: {}", chosen.damage->at.raw, chosen.damage->what));
        for (const PhysAddr chunk : chosen.directory.chunks) own(phys_range(chunk, page_bytes), "KHO chunk");
        std::set<u64> bitmap_pages;  // eight small bitmaps share a page
        for (const kho::MapElement& element : chosen.directory.elements)
            bitmap_pages.insert(align_down(element.bitmap.raw, page_bytes));
        for (const u64 page : bitmap_pages) own(phys_range(PhysAddr{page}, page_bytes), "KHO bitmap");
        out_.directory = std::move(chosen.directory);
        out_.runs = std::move(chosen.runs);
        std::ranges::sort(out_.runs, {}, [](const kho::BlockRun& run) { return run.begin; });
    }

    void decode_subtree(const std::string& name, std::optional<u64> phys) {
        if (!phys) {
            problem(fmt::format("{:#x}: node '{}' has no fdt property of 8 bytes", out_.root->raw, name));
            return;
        }
        const auto tree = open_tree(name, *phys);
        if (!tree) return;
        if (name == "memblock") decode_reserve_mem(*tree);
        if (name == "LUO") decode_luo(*tree, *phys);
    }

    std::optional<FdtReader> open_tree(const std::string& name, u64 phys) {
        auto tree = FdtReader::open(ram_, PhysAddr{phys});
        if (!tree) {
            problem(fmt::format("{:#x}: {}: no devicetree: {}", phys, name, kho::fdt_error_text(tree.error())));
            return std::nullopt;
        }
        out_.trees.push_back({name, PhysAddr{phys}, tree->bytes(), tree_text(*tree)});
        own(phys_range(PhysAddr{align_down(phys, page_bytes)}, align_up(tree->bytes(), page_bytes)), name + " tree");
        return std::move(*tree);
    }

    void decode_reserve_mem(const FdtReader& tree) {
        for (int child = tree.first_subnode(FdtReader::root); child >= 0; child = tree.next_subnode(child)) {
            const auto start = tree.property_u64(child, "start"), size = tree.property_u64(child, "size");
            if (start && size && ram_.contains(PhysAddr{*start}, *size))
                own(phys_range(PhysAddr{*start}, *size), "reserve_mem " + tree.node_name(child));
            else
                problem(fmt::format("memblock: entry '{}' names no RAM", tree.node_name(child)));
        }
    }

    void decode_luo(const FdtReader& tree, u64 phys) {
        const int node = tree.node_offset("/subsystems");
        if (node < 0) {
            problem(fmt::format("{:#x}: LUO: there is no node /subsystems", phys));
            return;
        }
        for (const FdtReader::Property& property : tree.properties(node)) {
            if (property.value.size() != 8) continue;
            u64 data = 0;
            std::memcpy(&data, property.value.data(), sizeof data);
            if (property.name == luo::abi::LUO_FILES_NODE_NAME) {
                if (data) decode_files(data);
            } else if (data && data % page_bytes == 0 && ram_.contains(PhysAddr{data}, page_bytes)) {
                if (property.name == luo::abi::PCI_SUBSYSTEM || property.name == luo::abi::IOMMU_SUBSYSTEM)
                    decode_device_subsystem(ram_, out_, property.name, PhysAddr{data});
                else
                    own(phys_range(PhysAddr{data}, page_bytes), "subsystem " + property.name);
            }
        }
    }

    void decode_files(u64 phys) {
        const auto tree = open_tree(luo::abi::LUO_FILES_NODE_NAME, phys);
        if (!tree) return;
        for (int child = tree->first_subnode(FdtReader::root); child >= 0; child = tree->next_subnode(child)) {
            Inspected::MemoryFile file;
            file.token = std::strtoull(tree->node_name(child).c_str(), nullptr, 0);
            file.handler = tree->property_text(child, luo::abi::PROP_COMPATIBLE).value_or("");
            file.tree = PhysAddr{tree->property_u64(child, luo::abi::PROP_DATA).value_or(0)};
            if (file.handler == luo::abi::MEMFD_COMPATIBLE && file.tree.raw) decode_memfd(file);
            if (file.tree.raw) decode_device_file(ram_, out_, file);
            out_.files.push_back(file);
        }
    }

    /// The block that begins at this frame, with the order under which the map has it; 0: it does not.
    Folio preserved_block(Pfn head) const {
        const auto after = std::ranges::upper_bound(out_.runs, head, {}, &kho::BlockRun::begin);
        if (after == out_.runs.begin()) return {head, Order{0}};
        const kho::BlockRun& run = *std::prev(after);
        const bool begins = run.frames().contains(head) && (head - run.begin) % run.order.pages() == 0;
        return {head, begins ? run.order : Order{0}};
    }

    void decode_memfd(Inspected::MemoryFile& file) {
        const std::string name = fmt::format("memfd {:#x}", file.token);
        const auto tree = open_tree(name, file.tree.raw);
        if (!tree) return;
        file.size = tree->property_u64(FdtReader::root, luo::abi::MEMFD_PROP_SIZE).value_or(0);
        file.pos = tree->property_u64(FdtReader::root, luo::abi::MEMFD_PROP_POS).value_or(0);
        const auto folios = tree->property(FdtReader::root, luo::abi::MEMFD_PROP_FOLIOS);
        if (!folios || folios->size() % sizeof(luo::abi::MemfdFolio)) {
            problem(fmt::format("{:#x}: {}: the folios property is missing or no multiple of 16 bytes", file.tree.raw,
                                name));
            return;
        }
        out_.trees.back().text.clear();  // an array of folios is better shown as ranges
        for (u64 at = 0; at < folios->size(); at += sizeof(luo::abi::MemfdFolio)) {
            luo::abi::MemfdFolio folio;
            std::memcpy(&folio, folios->data() + at, sizeof folio);
            if (folio.foliodesc == 0) continue;
            ++file.folios;
            const Folio block = preserved_block(Pfn{folio.foliodesc >> page_shift});
            file.pages += block.order.pages();
            const PhysRange range = block.phys();
            if (!ram_.contains(range))
                problem(fmt::format("{:#x}: {}: a folio outside RAM", range.begin.raw, name));
            else if (!out_.owners.empty() && out_.owners.back().name == name &&
                     out_.owners.back().range.end == range.begin)
                out_.owners.back().range.end = range.end;
            else
                own(range, name);
        }
    }

    const PhysicalMemory& ram_;
    Inspected& out_;
};

}  // namespace

Inspected decode_image(const Machine& machine, const HandoverAddress& where) {
    Inspected result;
    Decoder decoder(machine.ram, result);
    decoder.find_root(where.fdt);
    if (where.scratch && where.scratch_bytes) decoder.decode_scratch(*where.scratch, *where.scratch_bytes);
    if (result.root) decoder.decode();
    return result;
}

}  // namespace kexec_sim::sim
