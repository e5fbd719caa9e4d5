#include "recorder/plant.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "recorder/image.h"

/* Where the recorder finds it behind its code. */
_Alignas(4096) struct tm_control tm_recorder_control;

void tm_slot_enter(uint64_t block, uint64_t slot);
uint64_t tm_slot_leave(uint64_t block, uint64_t size, uint64_t old, uint64_t slot);
void tm_slot_reference(uint64_t object);
void tm_native_free_entry(void), tm_native_new_entry(void), tm_native_new_ends_entry(void),
	tm_native_loader_entry(void), tm_native_resize_entry(void), tm_native_leave_entry(void);

struct state {
	uint64_t thread_id, frame;
};

static _Thread_local uint64_t state_word; /* 0: the thread is not in the interpreter */
static _Thread_local struct state state;

void plant_need(bool condition, const char *text, const char *file, int line)
{
	if (condition)
		return;
	fprintf(stderr, "%s:%d: %s does not hold\n", file, line, text);
	abort();
}

uint64_t plant_thread_pointer(void)
{
	uint64_t pointer;

	__asm__("mov %%fs:0, %0" : "=r"(pointer));
	return pointer;
}

uint64_t plant_ticks(unsigned milliseconds)
{
	struct timespec begin, now;
	uint64_t first = __builtin_ia32_rdtsc();

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - begin.tv_sec) * 1000000000 + now.tv_nsec - begin.tv_nsec < 1000000);
	return (__builtin_ia32_rdtsc() - first) * milliseconds;
}

#if defined(__SANITIZE_THREAD__)
#define MAPPED_ONCE true
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MAPPED_ONCE true
#endif
#endif
#ifndef MAPPED_ONCE
#define MAPPED_ONCE false /* ThreadSanitizer knows places by their addresses */
#endif

static void *map_shared(int fd)
{
	void *memory = mmap(NULL, TM_SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

	need(memory != MAP_FAILED);
	return memory;
}

static void use_image(struct plant *plant)
{
	struct tm_recorder_image image;
	size_t size = TM_RECORDER_CODE_SIZE + TM_CONTROL_SIZE;

	need(tm_recorder_image(&image));
	plant->image = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(plant->image != MAP_FAILED);
	memcpy(plant->image, image.bytes, image.size);
	need(!mprotect(plant->image, TM_RECORDER_CODE_SIZE, PROT_READ | PROT_EXEC));
	plant->control = (struct tm_control *)(plant->image + TM_RECORDER_CODE_SIZE);
	need(!madvise(plant->control, TM_CONTROL_SIZE, MADV_WIPEONFORK));
	plant->enter = (void (*)(uint64_t, uint64_t))(plant->image + image.entries[TM_ENTRY_SLOT_ENTER]);
	plant->leave = (uint64_t(*)(uint64_t, uint64_t, uint64_t, uint64_t))(
		plant->image + image.entries[TM_ENTRY_SLOT_LEAVE]);
	plant->reference = (void (*)(uint64_t))(plant->image + image.entries[TM_ENTRY_SLOT_REFERENCE]);
	for (unsigned i = TM_ENTRY_NATIVE_FREE; i <= TM_ENTRY_NATIVE_LEAVE; i++)
		plant->native[i] = (uint64_t)plant->image + image.entries[i];
}

static void use_compiled(struct plant *plant)
{
	plant->control = &tm_recorder_control;
	plant->enter = tm_slot_enter;
	plant->leave = tm_slot_leave;
	plant->reference = tm_slot_reference;
	plant->native[TM_ENTRY_NATIVE_FREE] = (uint64_t)tm_native_free_entry;
	plant->native[TM_ENTRY_NATIVE_NEW] = (uint64_t)tm_native_new_entry;
	plant->native[TM_ENTRY_NATIVE_NEW_ENDS] = (uint64_t)tm_native_new_ends_entry;
	plant->native[TM_ENTRY_NATIVE_LOADER] = (uint64_t)tm_native_loader_entry;
	plant->native[TM_ENTRY_NATIVE_RESIZE] = (uint64_t)tm_native_resize_entry;
	plant->native[TM_ENTRY_NATIVE_LEAVE] = (uint64_t)tm_native_leave_entry;
	memset(plant->control, 0, sizeof(*plant->control));
}

static const struct tm_recorder_python python = {
	.minor = 10,
	.state_kind = TM_STATE_THREAD,
	.nframe = 1,
	.thread_id = offsetof(struct state, thread_id),
	.thread_frame = offsetof(struct state, frame),
	.frame_code = offsetof(struct plant_frame, code),
	.frame_back = offsetof(struct plant_frame, back),
	.frame_instruction = offsetof(struct plant_frame, instruction),
	.frame_lineno = offsetof(struct plant_frame, line),
	.frame_trace = offsetof(struct plant_frame, trace),
	.code_size = sizeof(struct plant_code_object),
	.code_filename = offsetof(struct plant_code_object, filename),
	.code_name = offsetof(struct plant_code_object, name),
	.code_lines = offsetof(struct plant_code_object, lines),
	.unicode_length = offsetof(struct plant_text, length),
	.unicode_state = offsetof(struct plant_text, state),
	.unicode_ascii = offsetof(struct plant_text, text),
	.bytes_size = offsetof(struct plant_bytes, size),
	.bytes_data = offsetof(struct plant_bytes, bytes),
};

void plant_open(struct plant *plant, enum plant_code code)
{
	int fd = memfd_create("rings", MFD_CLOEXEC);

	need(fd >= 0 && !ftruncate(fd, (off_t)TM_SHARED_SIZE));
	*plant = (struct plant){.shared = map_shared(fd)};
	plant->target = MAPPED_ONCE ? (uint8_t *)plant->shared : map_shared(fd);
	close(fd);
	need(!madvise(plant->target, TM_SHARED_SIZE, MADV_DONTFORK));
	if (code == PLANT_IMAGE)
		use_image(plant);
	else
		use_compiled(plant);
	need(!tm_ring_reader_create(plant->shared, &plant->reader));
	plant->control->python = python;
	plant->control->python.state_place = (uint64_t)&state_word - plant_thread_pointer();
	plant->control->shared = (uint64_t)plant->target;
	plant->control->patience = plant_ticks(5000);
	plant->control->may_sleep = plant->control->stamps = 1;
	plant->shared->enabled = 1;
	__atomic_store_n(&plant->control->enabled, 1, __ATOMIC_RELEASE);
}

void plant_close(struct plant *plant)
{
	tm_ring_reader_destroy(plant->reader);
	munmap(plant->shared, TM_SHARED_SIZE);
	if (!MAPPED_ONCE)
		munmap(plant->target, TM_SHARED_SIZE);
	if (plant->image)
		munmap(plant->image, TM_RECORDER_CODE_SIZE + TM_CONTROL_SIZE);
}

struct tm_recorder_thread *plant_thread(const struct plant *plant)
{
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (__atomic_load_n(&plant->control->threads[i].thread_pointer, __ATOMIC_ACQUIRE) ==
		    plant_thread_pointer())
			return &plant->control->threads[i];
	return NULL;
}

struct tm_ring_head *plant_ring(const struct plant *plant, unsigned ring)
{
	return (struct tm_ring_head *)((uint8_t *)plant->shared + TM_SHARED_HEADS) + ring;
}

void plant_enter_interpreter(const struct plant_frame *newest)
{
	state = (struct state){.thread_id = plant_thread_pointer(), .frame = (uint64_t)newest};
	state_word = (uint64_t)&state;
}

void plant_leave_interpreter(void)
{
	state_word = 0;
}

uint64_t plant_state(void)
{
	return (uint64_t)&state;
}

#define STATE_ASCII (1u << 6 | 1u << 5 | 1u << 2) /* ascii, compact, kind 1 (PyASCIIObject.state) */

void plant_make_code(struct plant_code_object *code, bool unusual)
{
	static const struct plant_text filename = {7, STATE_ASCII, "file.py"},
				       name = {4, STATE_ASCII, "name"}, not_compact = {4, 1u << 2, "name"};
	static const struct plant_bytes lines = {4, "line"};

	*code = (struct plant_code_object){.filename = &filename, .lines = &lines};
	code->name = unusual ? &not_compact : &name;
}
