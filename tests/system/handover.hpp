// The cut: a run is stopped at a jump, and another one goes on from RAM and boot parameters alone.
//
//   uncut     power on ─ steps ─ kexec ─────────── steps ── end
//   stopped   power on ─ steps ─ kexec ┤ RAM file, boot parameters
//   resumed                            ├ boot ──── steps ── end
//
// Between the two the files can be looked at with the independent decoder, and changed. The resumed scenario is cut
// out of the original one: the kernels from the one on that the jump starts, the steps behind it, the faults that have
// not fired, with the visits they still wait for.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "tests/support/decoder.hpp"
#include "tests/system/library.hpp"

namespace system_test {

/// The generations that started by a jump, ascending.
std::vector<Generation> jumps(const RunResult& result);

/// Memory as a file: offset = physical address.
class RamFile {
public:
    explicit RamFile(const std::string& path);
    ~RamFile();
    RamFile(const RamFile&) = delete;
    RamFile& operator=(const RamFile&) = delete;

    bool read(u64 phys, void* out, u64 bytes) const;
    void write(u64 phys, const void* in, u64 bytes);
    /// Zeroes every frame outside `kept`, ranges of frame numbers that ascend and do not overlap. Returns how many
    /// frames that held something were zeroed.
    u64 zero_all_but(const std::vector<decoder::FrameRange>& kept);

private:
    int fd_ = -1;
    u64 bytes_ = 0;
};

class StoppedRun {
public:
    /// Runs `scenario` up to the first instruction of `generation`.
    StoppedRun(const Scenario& scenario, Generation generation);

    const RunResult& result() const { return result_; }
    Generation generation() const { return generation_; }
    /// Index of the jump's step among the steps as they were executed.
    std::size_t jump_at() const { return result_.executed.size() - 1; }
    RamFile& ram() { return *ram_; }
    /// nullopt: nothing is handed over.
    const std::optional<decoder::HandoverParams>& handover() const { return handover_; }
    unsigned bitmap_bytes() const { return bitmap_bytes_; }
    /// Somebody was promised memory: a consumer of KHO, not KHO itself.
    bool promises() const { return promises_; }
    /// What the independent decoder makes of the handover; notes which frames it read.
    decoder::Result decode();
    /// Frames that the next kernel can know of: parameters, image, and what the handover leads to.
    std::vector<decoder::FrameRange> reachable();

    Scenario resumed(const Scenario& scenario) const;

private:
    TempDir dir_;
    Generation generation_;
    RunResult result_;
    std::optional<RamFile> ram_;
    std::optional<decoder::HandoverParams> handover_;
    unsigned bitmap_bytes_ = 512;
    bool promises_ = false;
    kexec_sim::u32 kernel_index_ = 0;
    std::vector<decoder::FrameRange> given_;     // boot parameters, image
    std::vector<decoder::FrameRange> followed_;  // frames that the decoder read
};

/// Ranges sorted and joined.
std::vector<decoder::FrameRange> joined(std::vector<decoder::FrameRange> ranges);

/// The steps as they are executed, loops unrolled: indices into Scenario::steps.
std::vector<kexec_sim::u32> execution_order(const Scenario& scenario);

}  // namespace system_test
