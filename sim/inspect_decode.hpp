// Decoding a handover out of a RAM image, for people.
//
// The image is loaded into a machine of its own; nothing runs on it. The root tree is where a boot-params file or
// `--fdt` says, else every page is searched for a devicetree header whose root says "kho-v1".
//
//   root tree -> map (chunks, bitmaps) -> runs of preserved blocks
//             -> sub-trees -> memblock: reserve_mem areas
//                          -> LUO: subsystems, files by token, each memfd's size, position and folios; the records of devices
//
// The map does not say how large its bitmaps are (512 bytes, or 4096 in 6.18). The size is the one under which the
// page of the root tree itself is preserved; if both or none fit, 512.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kho/deserialize.hpp"
#include "machine/machine.hpp"

namespace kexec_sim::sim {

struct Inspected {
    struct Tree {
        std::string name;
        PhysAddr phys;
        u64 bytes = 0;
        std::string text;
    };
    struct Owner {
        PhysRange range;
        std::string name;
    };
    struct MemoryFile {
        u64 token = 0, size = 0, pos = 0, folios = 0, pages = 0;
        PhysAddr tree;
        std::string handler;
    };
    /// What a subsystem or file of devices hands over (inspect_devices.hpp).
    struct Record {
        std::string name;
        PhysAddr phys;
        std::string what;
        std::vector<std::string> lines;
    };
    std::optional<PhysAddr> root;
    std::vector<PhysRange> scratch;
    std::optional<u64> map_address;
    u64 bitmap_bytes = 0;
    kho::MapDirectory directory;
    std::vector<kho::BlockRun> runs;
    std::vector<Tree> trees;  // root first
    std::vector<MemoryFile> files;
    std::vector<Record> records;
    std::vector<Owner> owners;          // who a range belongs to, as far as the trees tell
    std::vector<std::string> problems;  // each with the physical address where it went wrong
};

struct HandoverAddress {
    std::optional<u64> fdt, scratch, scratch_bytes;
};
Inspected decode_image(const Machine& machine, const HandoverAddress& where);

}  // namespace kexec_sim::sim
