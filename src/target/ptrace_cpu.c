/*
 * On which CPU the two run. A stop hands the CPU from the target to us and back; on one CPU that costs 3-4
 * us, between two of which one is idle 15-100 us (a virtual machine's idle CPU has to be kicked awake each
 * time). The scheduler tends to the latter: whoever is woken goes to an idle CPU. So this thread binds itself
 * to the target's CPU; and where the target is seen to run away from there all the same, its wake-ups are
 * steered: its affinity is narrowed to our CPU for the few microseconds of the resume, and put back before we
 * sleep, which is when it begins to run.
 *
 * Only a target of which one thread alone meets breakpoints is steered: several share the CPUs better without
 * us.
 */
#include "target/procfs.h"
#include "target/ptrace.h"
#include "target/ptrace_internal.h"

#define FOLLOW_NS  (10 * 1000000ull)   /* looking up a thread's CPU costs as much as two stops */
#define STEER_NS   (2000 * 1000000ull) /* then the scheduler gets another chance to do without */
#define STREAK_MIN 64		       /* stops of one thread in a row */

static bool bind_to(struct tm_ptrace *pt, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		return false;
	pt->cpu = cpu;
	return true;
}

void tm_ptrace_follow_cpu(struct tm_target *target, const struct tm_thread *thread, uint64_t now_ns)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	int cpu;

	pt->streak = thread->tid == pt->streak_tid ? pt->streak + 1 : 0;
	pt->streak_tid = thread->tid;
	if (pt->streak < STREAK_MIN)
		pt->steer_until_ns = 0;
	if (now_ns - pt->last_follow_ns < FOLLOW_NS)
		return;
	pt->last_follow_ns = now_ns;
	if (pt->steer_until_ns && now_ns > pt->steer_until_ns)
		pt->steer_until_ns = 0;
	cpu = tm_procfs_cpu(thread->tgid, thread->tid);
	if (cpu < 0 || cpu == pt->cpu || !CPU_ISSET(cpu, &pt->original_affinity))
		return;
	if (pt->cpu >= 0 && pt->streak >= STREAK_MIN)
		pt->steer_until_ns = now_ns + STEER_NS;
	bind_to(pt, cpu);
}

/* The mask is read anew each time: the thread may have set it itself since the last stop. */
bool tm_ptrace_steer(struct tm_ptrace *pt, const struct tm_thread *thread, cpu_set_t *own)
{
	cpu_set_t here;

	if (!pt->steer_until_ns || thread->tid != pt->streak_tid)
		return false;
	if (sched_getaffinity(thread->tid, sizeof(*own), own) < 0 || !CPU_ISSET(pt->cpu, own) ||
	    CPU_COUNT(own) == 1)
		return false;
	CPU_ZERO(&here);
	CPU_SET(pt->cpu, &here);
	return sched_setaffinity(thread->tid, sizeof(here), &here) == 0;
}

/* A task that was created in the moment in which its creator was steered has inherited the narrow mask. */
void tm_ptrace_widen_new_task(struct tm_ptrace *pt, const struct tm_thread *creator, pid_t tid)
{
	cpu_set_t present, own;

	if (!pt->steer_until_ns || creator->tid != pt->streak_tid)
		return;
	if (sched_getaffinity(tid, sizeof(present), &present) < 0 ||
	    sched_getaffinity(creator->tid, sizeof(own), &own) < 0)
		return;
	if (CPU_COUNT(&present) == 1 && CPU_ISSET(pt->cpu, &present) && CPU_COUNT(&own) > 1)
		sched_setaffinity(tid, sizeof(own), &own);
}

void tm_ptrace_unsteer(const struct tm_thread *thread, const cpu_set_t *own)
{
	sched_setaffinity(thread->tid, sizeof(*own), own);
}

/*
 * A busy thread that is woken takes the CPU from whoever wakes it, for a time slice, and all that are still
 * to be woken stand still meanwhile. So that is done with real-time priority, of a child of which nothing is
 * inherited. It takes CAP_SYS_NICE (sched(7)).
 */
bool tm_ptrace_hold_cpu(struct tm_ptrace *pt)
{
	const struct sched_param lowest = {.sched_priority = 1};

	if (pt->base.threads.count < 2 || pt->original_policy != SCHED_OTHER)
		return false;
	return sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) == 0;
}

void tm_ptrace_share_cpu(struct tm_ptrace *pt, bool held)
{
	if (held)
		sched_setscheduler(0, pt->original_policy, &pt->original_priority);
}

void tm_ptrace_unbind_cpu(struct tm_ptrace *pt)
{
	if (pt->cpu >= 0)
		sched_setaffinity(0, sizeof(pt->original_affinity), &pt->original_affinity);
	pt->cpu = -1;
}
