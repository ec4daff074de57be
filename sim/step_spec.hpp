// The step registry: every step that a scenario can hold, as data.
//
// One table says which steps exist, which fields they take and of what type. The scenario parser
// reads steps by it, and `list steps`, the JSON Schema and the reference page are printed from it, so that
// none of them can drift from what runs. What a step *does* is the runner's, which dispatches by StepId.
//
//     - memfd.write: {fd: a, offset: 4KiB, text: "x"}        a map step: name, fields
//     - advance: 10ms                                        a scalar step: its one field is the value
//     - vm.run: 10ms   or   vm.run: {vm: vm0, for: 10ms}     a map step with a short form: the value of one field
//     - luo.prepare:                                         a bare step: no value
//
// A field is required, or optional with a default, or optional and absent. Fields of one *choice*
// exclude each other (`folio | pages | vmalloc`); a step says whether one of them must be there.
// Fields that are names either *bind* (`name:`, `as:`) or *refer*; the kinds of names are separate spaces.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/types.hpp"

namespace kexec_sim::sim {

enum class StepId : u8 {
    advance,
    note,
    mark,
    kexec,
    kexec_load,
    kexec_exec,
    reset,
    panic,
    crash_kernel,
    kernel_kill,
    kho_alloc,
    kho_preserve,
    kho_unpreserve,
    kho_restore,
    kho_verify,
    kho_free,
    kho_preserve_pages,
    kho_preserve_phys,
    kho_preserve_vmalloc,
    kho_store_pointer,
    kho_add_subtree,
    kho_remove_subtree,
    kho_retrieve_subtree,
    kho_finalize,
    kho_abort,
    kho_expect_map,
    kho_debugfs,
    reserve_mem_find,
    reserve_mem_write,
    reserve_mem_verify,
    memfd_create,
    memfd_write,
    memfd_verify,
    memfd_read,
    memfd_truncate,
    memfd_seek,
    memfd_seal,
    memfd_punch,
    memfd_stat,
    memfd_close,
    agent_start,
    agent_kill,
    agent_switch,
    luo_open,
    luo_close,
    luo_preserve,
    luo_unpreserve,
    luo_prepare,
    luo_freeze,
    luo_cancel,
    luo_finish,
    luo_event,
    luo_restore,
    luo_fd_event,
    luo_fd_state,
    luo_state,
    luo_raw,
    luoctl,
    subsystem_register,
    subsystem_unregister,
    subsystem_expect,
    file_handler_register,
    file_handler_unregister,
    module_load,
    module_unload,
    pci_expect,
    pci_read,
    pci_write,
    pci_swap,
    pci_remove,
    vfio_open,
    vfio_close,
    iommufd_create,
    iommufd_map,
    iommufd_unmap,
    iommufd_attach,
    iommufd_close,
    nic_start,
    nic_stop,
    nic_expect,
    p2p_start,
    p2p_stop,
    vm_create,
    vm_attach,
    vm_run,
    vm_pause,
    vm_resume,
    vm_verify,
    vm_preserve,
    vm_restore,
    vm_close,
    expect_log,
    expect_counter,
    expect_frames,
    expect_memory_in_use,
};

enum class FieldType : u8 {
    size,         // u64: bytes                          get_u64
    duration,     // u64: nanoseconds                    get_u64
    number,       // u64, hex or decimal                 get_u64
    pfn,          // u64: a page frame number            get_u64
    boolean,      // true, false                         get_bool
    string,       // one line of text, not empty         get_text
    text,         // any text                            get_text
    bytes,        // hex digits; get_text gives the raw bytes
    fill,         // zero, byte(N), pattern(SEED)        get_fill
    bind,         // a name that this step binds         get_text
    ref,          // a name that some step binds         get_text
    choice,       // one of `values`                     get_text; of digits: get_u64 too
    choice_list,  // a list of `values`                  get_list
    order_map,    // {order: count, …}                   get_orders
    callback,     // ok, an errno or panic               get_text
    event,        // prepare, freeze, finish, cancel or a number   get_u64
    file,         // a file name; relative to the scenario file, resolved   get_text
    pci_address,  // [segment:]bus:device.function       get_u64: segment << 16 | BDF
    buffer,       // {vm | fd, offset, length}           get_buffer
};

/// The name spaces. `bench` is what the test bench keeps over a kexec (folios, pages, vmalloc, reserve_mem areas).
/// Devices are bound by the machine; `vm` is a label that stays over a kexec.
enum class NameKind : u8 { descriptor, bench, subsystem, agent, mark, device, vm };
inline constexpr std::size_t name_kinds = 7;
std::string_view name_kind_text(NameKind kind);  // "descriptor", "bench object", …

struct FieldSpec {
    std::string_view name;
    FieldType type = FieldType::string;
    std::string_view description;
    bool required = false;
    std::string_view default_text = {};             // holds when absent; empty: the field is then absent
    NameKind kind = NameKind::descriptor;           // bind, ref
    std::span<const std::string_view> values = {};  // choice, choice_list
    bool in_choice = false;                         // excludes the step's other fields that have this
    std::string_view not_with = {};                 // a field that it makes no sense beside
    u64 min = 0, max = ~u64{0};                     // of a number, size or duration
    std::string_view model = {};                    // ref of a device: the model that it must be of
    bool repeats = false;                           // choice_list: a value may stand in it more than once
};

enum class StepForm : u8 { bare, scalar, map };

struct StepSpec {
    StepId id{};
    std::string_view name;
    std::string_view group;  // heading of the reference page
    StepForm form = StepForm::bare;
    std::string_view description;
    std::vector<FieldSpec> fields = {};
    std::string_view short_field = {};  // map: the field whose value may stand in place of the map
    bool choice_required = false;       // one of the fields with `in_choice` must be there
    bool runs_when_dead = false;        // runs on a machine whose kernel is dead
    bool opens_luo = false;             // the agent opens /dev/liveupdate by itself for it

    const FieldSpec* field(std::string_view name) const;
};

/// In the order of StepId.
std::span<const StepSpec> step_specs();
const StepSpec& step_spec(StepId id);
/// nullptr: there is no such step.
const StepSpec* step_by_name(std::string_view name);
std::span<const std::string_view> step_names();

/// "size", "duration", "one of cold, warm", …: the type of a field in words.
std::string field_type_text(const FieldSpec& field);

/// The text of `kexec-sim list steps`: for the terminal, or as the Markdown reference page.
std::string list_steps(bool markdown);
/// The JSON Schema (draft 2020-12) of scenario files.
std::string json_schema();

}  // namespace kexec_sim::sim
