#include "sim/step_table.hpp"

// One row a step, laid out as a table.
// clang-format off
namespace kexec_sim::sim {
namespace {

using namespace fields;
using Type = FieldType;
using Form = StepForm;

constexpr std::string_view reset_values[] = {"cold", "warm"};
constexpr std::string_view vmm_values[] = {"duties", "disable", "none"};
/// Larger orders than the page allocator has are a kernel's to refuse, but they must fit a shift.
constexpr u64 order_max = 63;

FieldSpec vmm_field() {
    return one_of(optional("vmm", Type::choice, "what the VMMs of preserved virtual machines do first: pause, save the vCPUs, mask MSI-X (`disable`: turn it off, so that what comes is lost)", "duties"), vmm_values);
}

FieldSpec bench_ref(std::string_view name, std::string_view description) {
    return refers(name, NameKind::bench, description);
}

void add_time(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "Time";
    steps.push_back({.id = StepId::advance, .name = "advance", .group = group, .form = Form::scalar,
        .description = "Lets virtual time pass; what is due in it happens.",
        .fields = {required("for", Type::duration, "how long")}, .runs_when_dead = true});
    steps.push_back({.id = StepId::note, .name = "note", .group = group, .form = Form::scalar,
        .description = "A line for the reader of the narration; changes nothing.",
        .fields = {required("text", Type::text, "the line")}, .runs_when_dead = true});
    steps.push_back({.id = StepId::mark, .name = "mark", .group = group, .form = Form::scalar,
        .description = "Remembers the memory in use under a name, for `expect.memory_in_use`.",
        .fields = {binds("name", NameKind::mark, "the name of the mark")}, .runs_when_dead = true});
}

void add_reboot(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "Reboot";
    steps.push_back({.id = StepId::kexec, .name = "kexec", .group = group, .form = Form::map,
        .description = "`kexec.load` of the next kernel if none is loaded, then `kexec.exec`. It never prepares.",
        .fields = {vmm_field()}});
    steps.push_back({.id = StepId::kexec_load, .name = "kexec.load", .group = group, .form = Form::map,
        .description = "kexec_file_load of an entry of `kernels`; fails with the loader's errno.",
        .fields = {optional("kernel", Type::number, "index into `kernels`; by default the next one"),
                   optional("cmdline", Type::text, "command line in place of the entry's own")}});
    steps.push_back({.id = StepId::kexec_exec, .name = "kexec.exec", .group = group, .form = Form::map,
        .description = "reboot(2) with the KEXEC command; ends when the next kernel has reached user space.",
        .fields = {vmm_field()}});
    steps.push_back({.id = StepId::reset, .name = "reset", .group = group, .form = Form::scalar,
        .description = "Resets the machine and boots the running entry again; nothing is handed over.",
        .fields = {one_of(required("how", Type::choice, "cold loses RAM, warm keeps it"), reset_values)},
        .runs_when_dead = true});
    steps.push_back({.id = StepId::panic, .name = "panic", .group = group,
        .description = "The running kernel panics."});
    steps.push_back({.id = StepId::crash_kernel, .name = "crash-kernel", .group = group,
        .description = "Boots the running entry with KHO off in the range that `crashkernel=SIZE` reserved.",
        .runs_when_dead = true});
    steps.push_back({.id = StepId::kernel_kill, .name = "kernel.kill", .group = group,
        .description = "Kills the host process of the running kernel with SIGKILL; in inline isolation a panic."});
}

/// The steps whose object is a folio, a run of pages or a vmalloc area.
StepSpec on_object(StepId id, std::string_view name, std::string_view description) {
    return {.id = id, .name = name, .group = "KHO", .form = Form::map, .description = description,
        .fields = {either(bench_ref("folio", "a folio of `kho.alloc`")),
                   either(bench_ref("pages", "a run of pages, as of `kho.preserve_pages`")),
                   either(bench_ref("vmalloc", "an area of `kho.preserve_vmalloc`"))},
        .choice_required = true};
}

void add_kho_objects(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "KHO";
    steps.push_back({.id = StepId::kho_alloc, .name = "kho.alloc", .group = group, .form = Form::map,
        .description = "Allocates an unmovable folio. The bench remembers its address over a kexec, as a test would in its sub-tree.",
        .fields = {binds("name", NameKind::bench, "the name of the folio"),
                   at_most(optional("order", Type::number, "2^order pages", "0"), order_max),
                   at_most(optional("node", Type::number, "NUMA node to allocate on; by default any"), 1023),
                   optional("fill", Type::fill, "content", "zero")}});
    steps.push_back(on_object(StepId::kho_preserve, "kho.preserve", "Preserves the object's memory."));
    steps.push_back(on_object(StepId::kho_unpreserve, "kho.unpreserve", "Takes a preservation back."));
    steps.push_back(on_object(StepId::kho_restore, "kho.restore", "Restores the object in the next kernel; ENOENT where it was not preserved."));
    StepSpec verify = on_object(StepId::kho_verify, "kho.verify", "Compares the object with what it was filled with.");
    verify.fields.push_back(at_most(optional("order", Type::number, "the order that the folio must have"), order_max));
    verify.fields.push_back(optional("fill", Type::fill, "the content it must have; by default what it was filled with"));
    steps.push_back(std::move(verify));
    steps.push_back(on_object(StepId::kho_free, "kho.free", "Frees the object's memory."));
    steps.push_back({.id = StepId::kho_preserve_pages, .name = "kho.preserve_pages", .group = group, .form = Form::map,
        .description = "Allocates a run of pages and preserves it.",
        .fields = {binds("name", NameKind::bench, "the name of the run"),
                   required("count", Type::number, "how many pages"),
                   optional("at", Type::pfn, "first page frame, EBUSY if any of them is in use; by default the allocator's choice"),
                   optional("fill", Type::fill, "content; by default as the memory is")}});
    steps.push_back({.id = StepId::kho_preserve_phys, .name = "kho.preserve_phys", .group = group, .form = Form::map,
        .description = "Preserves part of a folio's memory by physical address, in bytes (6.16, luo-*); EINVAL unless both are whole pages.",
        .fields = {bench_ref("folio", "the folio that the range lies in"),
                   optional("offset", Type::size, "first byte", "0"),
                   required("length", Type::size, "bytes")}});
    steps.push_back({.id = StepId::kho_preserve_vmalloc, .name = "kho.preserve_vmalloc", .group = group, .form = Form::map,
        .description = "Allocates a vmalloc area and preserves it.",
        .fields = {binds("name", NameKind::bench, "the name of the area"),
                   required("size", Type::size, "bytes"),
                   optional("huge", Type::boolean, "blocks of 2 MiB where there are any", "false"),
                   optional("fill", Type::fill, "content; by default zero")}});
    steps.push_back({.id = StepId::kho_store_pointer, .name = "kho.store_pointer", .group = group, .form = Form::map,
        .description = "Writes the direct-map address of one folio into another: a pointer that is stale in the next kernel.",
        .fields = {bench_ref("folio", "the folio that is written"),
                   optional("offset", Type::size, "byte of it at which the pointer is written", "0"),
                   bench_ref("to", "the folio that the pointer points at")}});
}

void add_kho_control(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "KHO";
    steps.push_back({.id = StepId::kho_add_subtree, .name = "kho.add_subtree", .group = group, .form = Form::map,
        .description = "Hands a sub-tree to KHO (where KHO has a notifier chain: noted, and added by the bench's notifier at finalize).",
        .fields = {required("name", Type::string, "the node's name"),
                   optional("size", Type::size, "bytes of the sub-tree", "4096")}});
    steps.push_back({.id = StepId::kho_remove_subtree, .name = "kho.remove_subtree", .group = group, .form = Form::map,
        .description = "Takes a sub-tree back.",
        .fields = {required("name", Type::string, "the node's name")}});
    steps.push_back({.id = StepId::kho_retrieve_subtree, .name = "kho.retrieve_subtree", .group = group, .form = Form::map,
        .description = "Looks a sub-tree up in what was handed over.",
        .fields = {required("name", Type::string, "the node's name")}});
    steps.push_back({.id = StepId::kho_finalize, .name = "kho.finalize", .group = group,
        .description = "Writes the handover; from then on nothing may be preserved."});
    steps.push_back({.id = StepId::kho_abort, .name = "kho.abort", .group = group,
        .description = "Takes a finalize back."});
    steps.push_back({.id = StepId::kho_expect_map, .name = "kho.expect_map", .group = group, .form = Form::map,
        .description = "Compares the preserved-memory map as serialized; the page of the root tree counts.",
        .fields = {optional("folios", Type::number, "set bits"),
                   optional("bytes", Type::size, "memory that they cover"),
                   optional("orders", Type::order_map, "set bits by order")},
        .runs_when_dead = true});
    steps.push_back({.id = StepId::kho_debugfs, .name = "kho.debugfs", .group = group, .form = Form::map,
        .description = "Reads a file below /sys/kernel/debug/kho and shows it.",
        .fields = {required("file", Type::string, "as `out/scratch_phys`"),
                   optional("contains", Type::text, "text that must be in it")}});
}

void add_memblock(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "memblock";
    steps.push_back({.id = StepId::reserve_mem_find, .name = "reserve_mem.find", .group = group, .form = Form::map,
        .description = "Finds an area of `reserve_mem=` by its name; ENOENT where there is none.",
        .fields = {binds("name", NameKind::bench, "the name on the command line"),
                   optional("size", Type::size, "the size that it must have"),
                   optional("same_address", Type::boolean, "whether it must lie where it lay when it was found before")}});
    const auto content = [&](StepId id, std::string_view name, std::string_view description) {
        steps.push_back({.id = id, .name = name, .group = group, .form = Form::map, .description = description,
            .fields = {bench_ref("name", "the name on the command line"),
                       either(optional("fill", Type::fill, "content by rule")),
                       either(optional("text", Type::text, "exact bytes")),
                       optional("offset", Type::size, "first byte", "0"),
                       not_with(optional("length", Type::size, "bytes of `fill`; by default up to the end"), "text")},
            .choice_required = true});
    };
    content(StepId::reserve_mem_write, "reserve_mem.write", "Writes into a `reserve_mem=` area.");
    content(StepId::reserve_mem_verify, "reserve_mem.verify", "Compares the content of a `reserve_mem=` area.");
}

}  // namespace

void add_kernel_steps(std::vector<StepSpec>& steps) {
    add_time(steps);
    add_reboot(steps);
    add_kho_objects(steps);
    add_kho_control(steps);
    add_memblock(steps);
}

}  // namespace kexec_sim::sim
// clang-format on
