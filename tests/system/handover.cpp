#include "tests/system/handover.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <sys/stat.h>
#include <unistd.h>

namespace system_test {

namespace sim = kexec_sim::sim;
using kexec_sim::u32;
using nlohmann::json;

namespace {

constexpr u64 page = decoder::page_bytes;

u64 number(const json& value) {
    return value.is_string() ? std::stoull(value.get<std::string>(), nullptr, 0) : value.get<u64>();
}

decoder::FrameRange frames_of(u64 phys, u64 bytes) { return {phys / page, (phys + bytes + page - 1) / page}; }

decoder::FrameRange frames_of(const json& place) {
    return frames_of(number(place.at("addr")), number(place.at("size")));
}

/// True if the referee's notes hold a promise to anybody but KHO, whose own page nobody claims.
///   source <who> <origin> <token> <intent> <promised> <state>     frames <begin> <end> <order> <source> <metadata>
bool promises_made(const std::string& notes) {
    std::istringstream lines(notes);
    std::vector<bool> promised;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string kind, word[6];
        words >> kind;
        for (std::string& each : word) words >> each;
        if (kind == "source") promised.push_back(word[0] != "kho" && word[4] == "1");
        if (kind == "frames" && promised.at(std::stoul(word[3], nullptr, 16))) return true;
    }
    return false;
}

/// Faults that the stopped run has left over.
std::vector<kexec_sim::PlannedFault> faults_left(const Scenario& scenario, const RunResult& stopped) {
    std::vector<kexec_sim::PlannedFault> left;
    for (std::size_t i = 0; i < scenario.faults.size(); ++i) {
        kexec_sim::PlannedFault fault = scenario.faults[i];
        if (fault.visit != 0) {
            if (stopped.faults.at(i).fired) continue;
            fault.visit -= stopped.faults[i].visits;
        }
        left.push_back(std::move(fault));
    }
    return left;
}

/// `kexec.load: {kernel: N}` counts the kernels of the file.
void shift_kernels(Scenario& scenario, u32 by) {
    for (sim::Step& step : scenario.steps) {
        if (step.id != sim::StepId::kexec_load) continue;
        for (sim::FieldValue& value : step.values)
            if (value.field->name == "kernel" && value.given && value.number >= by) value.number -= by;
    }
}

}  // namespace

std::vector<Generation> jumps(const RunResult& result) {
    std::vector<Generation> found;
    for (const auto& generation : result.generations)
        if (generation.end == "kexec") found.push_back(generation.index + 1);
    return found;
}

// --- RamFile ---------------------------------------------------------------------------------------------------

RamFile::RamFile(const std::string& path) : fd_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    struct stat about {};
    if (fd_ < 0 || fstat(fd_, &about) != 0) throw std::runtime_error(path + ": cannot be opened");
    bytes_ = static_cast<u64>(about.st_size);
}

RamFile::~RamFile() { close(fd_); }

bool RamFile::read(u64 phys, void* out, u64 bytes) const {
    if (phys > bytes_ || bytes > bytes_ - phys) return false;
    return pread(fd_, out, bytes, static_cast<off_t>(phys)) == static_cast<ssize_t>(bytes);
}

void RamFile::write(u64 phys, const void* in, u64 bytes) {
    if (phys > bytes_ || bytes > bytes_ - phys ||
        pwrite(fd_, in, bytes, static_cast<off_t>(phys)) != static_cast<ssize_t>(bytes))
        throw std::runtime_error("RAM file: cannot be written");
}

u64 RamFile::zero_all_but(const std::vector<decoder::FrameRange>& kept) {
    const std::vector<char> zeros(1 << 20);
    u64 zeroed = 0;
    const auto zero = [&](u64 begin, u64 end) {
        zeroed += (end - begin) / page;
        for (u64 at = begin; at < end; at += std::min<u64>(zeros.size(), end - at))
            write(at, zeros.data(), std::min<u64>(zeros.size(), end - at));
    };
    off_t at = 0;
    while ((at = lseek(fd_, at, SEEK_DATA)) >= 0) {
        const u64 begin = static_cast<u64>(at) / page * page;
        const u64 end = static_cast<u64>(lseek(fd_, at, SEEK_HOLE));
        u64 from = begin;
        for (const auto& range : kept) {
            if (range.end * page <= from) continue;
            if (range.begin * page >= end) break;
            if (range.begin * page > from) zero(from, range.begin * page);
            from = std::max(from, range.end * page);
        }
        if (from < end) zero(from, end);
        at = static_cast<off_t>(end);
    }
    return zeroed;
}

// --- StoppedRun ------------------------------------------------------------------------------------------------

StoppedRun::StoppedRun(const Scenario& scenario, Generation generation) : generation_(generation) {
    RunOptions options;
    options.isolation = Isolation::inline_;
    options.ram_file = dir_.file("ram");
    options.boot_params_file = dir_.file("boot-params");
    options.stop_at_jump = generation;
    result_ = sim::run_scenario(scenario, options);
    if (!result_.stopped_at_jump) throw std::runtime_error("the run did not reach the jump");
    ram_.emplace(options.ram_file);
    std::ifstream in(options.boot_params_file);
    const json params = json::parse(in);
    if (const json& setup = params.at("setup_data"); !setup.is_null())
        handover_ = {number(setup.at("fdt_addr")), number(setup.at("fdt_size")), number(setup.at("scratch_addr")),
                     number(setup.at("scratch_size"))};
    if (result_.generations.at(generation - 1).profile == "linux-6.18") bitmap_bytes_ = 4096;
    kernel_index_ = static_cast<u32>(number(params.at("kernel_index")));
    promises_ = promises_made(params.at("referee").get<std::string>());
    given_ = {frames_of(params.at("boot_page")), frames_of(params.at("kernel_image")),
              frames_of(params.at("initrd"))};
}

decoder::Result StoppedRun::decode() {
    if (!handover_) return {};
    const auto source = [this](std::uint64_t phys, void* out, std::size_t bytes) {
        if (!ram_->read(phys, out, bytes)) return false;
        followed_.push_back(frames_of(phys, bytes));
        return true;
    };
    return decoder::decode(source, *handover_, {.bitmap_bytes = bitmap_bytes_, .limits = {}});
}

std::vector<decoder::FrameRange> StoppedRun::reachable() {
    std::vector<decoder::FrameRange> ranges = decoder::coverage(decode());
    ranges.insert(ranges.end(), given_.begin(), given_.end());
    ranges.insert(ranges.end(), followed_.begin(), followed_.end());
    if (handover_) {
        ranges.push_back(frames_of(handover_->fdt_addr, handover_->fdt_size));
        ranges.push_back(frames_of(handover_->scratch_addr, handover_->scratch_size));
    }
    return joined(std::move(ranges));
}

Scenario StoppedRun::resumed(const Scenario& scenario) const {
    Scenario rest = scenario;
    rest.machine.memory_bytes = 0;
    rest.machine.node_bytes.clear();
    rest.machine.image = dir_.file("ram");
    rest.machine.boot_params = dir_.file("boot-params");
    rest.kernels.erase(rest.kernels.begin(), rest.kernels.begin() + kernel_index_);
    shift_kernels(rest, kernel_index_);
    rest.faults = faults_left(scenario, result_);
    // Findings and logs are compared, not judged: those of the first part are missing here.
    rest.expect = {};
    rest.expect.findings.kind = sim::FindingsSpec::Kind::any_of;
    rest.expect.findings.may_any = true;
    rest.program.clear();
    const std::vector<u32> order = execution_order(scenario);
    for (std::size_t i = jump_at() + 1; i < order.size(); ++i)
        rest.program.push_back({sim::ProgramOp::Kind::step, order[i], 0, 0});
    return rest;
}

std::vector<decoder::FrameRange> joined(std::vector<decoder::FrameRange> ranges) {
    std::ranges::sort(ranges);
    std::vector<decoder::FrameRange> result;
    for (const auto& range : ranges) {
        if (range.begin >= range.end) continue;
        if (result.empty() || result.back().end < range.begin)
            result.push_back(range);
        else
            result.back().end = std::max(result.back().end, range.end);
    }
    return result;
}

std::vector<u32> execution_order(const Scenario& scenario) {
    std::vector<u32> order;
    std::vector<u64> rounds_left(scenario.program.size());
    for (std::size_t at = 0; at < scenario.program.size(); ++at) {
        const sim::ProgramOp& op = scenario.program[at];
        if (op.kind == sim::ProgramOp::Kind::step) {
            order.push_back(op.step);
        } else if (op.kind == sim::ProgramOp::Kind::repeat_begin) {
            rounds_left[at] = op.times;
            if (op.times == 0) at = op.partner;
        } else if (--rounds_left[op.partner] != 0) {
            at = op.partner;
        }
    }
    return order;
}

}  // namespace system_test
